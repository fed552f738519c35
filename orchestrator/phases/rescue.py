"""Starting a stopped machine again, because its disk holds what lies nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from orchestrator.budget import REVIVAL_S, seconds_left
from orchestrator.ledger import MachineRecord
from orchestrator.lifecycle import Facts, Keeps, State
from orchestrator.mirror import progress_of
from orchestrator.phases.context import RunContext
from orchestrator.phases.loss import answers_again
from orchestrator.recovery import rescue_patience_s, to_do_again_s
from providers.api import HasStop, MachineId, MachineStatus
from providers.errors import CloudboothError, NoCapacity

ASK_AGAIN_S = 30.0
LOOK_AGAIN_S = 5.0
STATUS_PATIENCE_S = 180.0
"""How long a stop or a start may take to show."""
MAX_STARTS = {Keeps.MODEL: 3, Keeps.UNKNOWN: 1, Keeps.CHECKPOINT: 1, Keeps.NOTHING: 0}
"""Of one machine since it last answered: each that leads nowhere costs a whole boot."""

NEVER_ANSWERED = "the machine was started again and never answered"


def revive(context: RunContext, facts: Facts) -> Facts:
    """Asks the provider to start the machine again, within time and money; one that runs unreached is stopped first,
    unless it answers after all.

    Where it cannot be had, a mere checkpoint is given up (`not_revived`). A model is not, nor what may be one: it is
    left stopped, and NoCapacity is raised, which says what its disk costs and until when; `MAX_STARTS` that let nobody
    in are no proof that it is dead. Ends early when the user wants all down. Raises MachineGone.
    """
    machine = context.held_machine()
    assert machine.machine_id is not None
    assert isinstance(context.provider, HasStop)
    runs = context.provider.describe(machine.machine_id).status not in (MachineStatus.STOPPED, MachineStatus.FAILED)
    if not machine.stopped:
        if runs and answers_again(context):
            return replace(facts, revived=True)
        context.provider.stop(machine.machine_id)
        _await_status(context, machine.machine_id, stopped=True)
        context.ledger.record_stopped(context.run.name, context.epoch, machine.tag)
        runs = False
    obstacle = "" if runs else _obstacle(context, machine)
    if obstacle:
        return _not_now(context, facts, machine, obstacle)
    began = context.clock.monotonic()
    patience_s = rescue_patience_s(machine.keeps, _to_do_again_s(context))
    run, epoch = context.run.name, context.epoch
    while not context.wish().ends_now:
        context.ledger.record_rate(run, epoch, machine.tag, machine.running_usd)  # from here on it may bill so much
        try:
            context.provider.start(machine.machine_id)
        except NoCapacity as error:
            context.ledger.record_not_started(run, epoch, machine.tag)
            if context.clock.monotonic() - began >= patience_s:
                return _not_now(context, facts, machine, error.message)
            context.reporter.note(f"{error.message}; asking again in {ASK_AGAIN_S:.0f} s")
            context.require_driver()
            context.clock.sleep(ASK_AGAIN_S)
            continue
        _await_status(context, machine.machine_id, stopped=False)
        return replace(facts, revived=True)
    return facts


def _to_do_again_s(context: RunContext) -> float | None:
    logs = context.home.event_logs()
    log = logs[-1].read_bytes() if logs else b""
    progress = progress_of(log[: log.rfind(b"\n") + 1])
    return to_do_again_s(progress, context.ledger.artifacts(context.run.name))


def _obstacle(context: RunContext, machine: MachineRecord) -> str:
    """Why it is not even tried; empty when nothing speaks against it."""
    moves = context.ledger.moves(context.run.name)
    answered_at = max((move.at for move in moves if move.to_state is State.SHIPPING), default=0.0)
    if machine.starts_since(answered_at) >= MAX_STARTS[machine.keeps]:
        return NEVER_ANSWERED
    ceiling = context.spec.limits.max_cost_usd
    machines = context.ledger.machines(context.run.name)
    left_s = seconds_left(ceiling, machine.running_usd, machines, context.clock.now())
    if left_s < REVIVAL_S / 2:
        return f"limits.max_cost_usd = {ceiling:g} does not pay for another start"
    return ""


def _not_now(context: RunContext, facts: Facts, machine: MachineRecord, obstacle: str) -> Facts:
    if machine.keeps.may_be_the_model:
        _leave_stopped(context, machine, obstacle)
    return replace(facts, not_revived=f"{obstacle}; the run goes on from the newest checkpoint that came home")


def _leave_stopped(context: RunContext, machine: MachineRecord, obstacle: str) -> NoReturn:
    since = machine.keeps_since if machine.keeps_since is not None else context.clock.now()
    left_h = max(0.0, context.spec.limits.rescue_hours - (context.clock.now() - since) / 3600)
    run = context.run.name
    once_more = "" if obstacle != NEVER_ANSWERED else f"start it in the console of {machine.provider}; then "
    raise NoCapacity(
        f"the stopped machine {machine.tag} holds {machine.keeps.words}, and {obstacle}; its disk is kept for "
        f"{left_h:.0f} h more at ${machine.disk_per_day_usd:.2f} a day",
        f"{once_more}`cloudbooth attach {run}` tries again, `cloudbooth down {run}` gives the disk up",
    )


def _await_status(context: RunContext, machine_id: MachineId, *, stopped: bool) -> None:
    """Until the provider says so, or that the machine is dead, or for `STATUS_PATIENCE_S`: what comes next finds out by
    itself.
    """
    until = context.clock.monotonic() + STATUS_PATIENCE_S
    while True:
        status = context.provider.describe(machine_id).status
        if status is MachineStatus.FAILED or (status is MachineStatus.STOPPED) is stopped:
            return
        context.require_driver()
        if context.clock.monotonic() >= until:
            if stopped:
                raise CloudboothError(
                    f"the provider does not stop the machine {machine_id}",
                    f"`cloudbooth attach {context.run.name}` tries again, `cloudbooth down {context.run.name}` ends it",
                )
            return
        context.clock.sleep(LOOK_AGAIN_S)
