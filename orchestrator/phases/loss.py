"""Telling a lost machine from a lost connection, by asking the provider and not by guessing; and what that loses."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum

from orchestrator.absence import AGREEMENT_S
from orchestrator.budget import seconds_left
from orchestrator.home import RunHome
from orchestrator.host import HostError
from orchestrator.ledger import MachineRecord
from orchestrator.lifecycle import Facts, Keeps, State, Trouble
from orchestrator.mirror import progress_of
from orchestrator.phases.context import RunContext
from orchestrator.phases.storage import after_a_loss
from orchestrator.recovery import kept_alone, taken_away
from orchestrator.storage.api import StorageError
from providers.api import HasStop, MachineId, MachineStatus
from providers.errors import CloudboothError, MachineGone
from remote_trainer import wire

UNREACHABLE_LIMIT_S = 600.0
"""A rented machine that the provider calls running and that answers nobody for this long is given back, if nothing was
ever sent to it; of any other the user is told."""


@dataclass(frozen=True)
class Loss:
    trouble: Trouble
    why: str
    stopped: bool = False
    """The machine exists, is not running, and keeps its disk."""
    gone: bool = False
    """Nothing of it exists, its disk neither."""


class NotLost(Enum):
    """What is known of a machine that is not lost."""

    SEEN = "the provider says that it is there"
    UNSEEN = "nobody could be asked: no answer is no proof"


def loss_of_machine(context: RunContext) -> Loss | NotLost:
    """Why the machine of the run can no longer be used, or what speaks against that.

    A machine that stands on its own is never lost: its owner decides.
    """
    machine = context.machine()
    if context.machine_stands or machine is None or machine.machine_id is None:
        return NotLost.UNSEEN
    first = _look(context, machine.machine_id, machine)
    if isinstance(first, NotLost):
        return first
    context.clock.sleep(AGREEMENT_S)
    return _look(context, machine.machine_id, machine)


def after_no_answer(context: RunContext, facts: Facts, *, is_being_started: bool = False) -> Facts:
    """What a failed attempt to reach the machine comes to: it is lost, or has been silent for so much longer.

    One that runs and was shipped to is not lost for being silent: it is more likely that this computer's network does
    not let us through, and the machine trains on. Its guard ends it within its limit; when the money for it is gone
    and it runs all the same, it is lost. `is_being_started`: a stop is no news.
    """
    found = loss_of_machine(context)
    if isinstance(found, Loss):
        return facts if found.stopped and is_being_started else declare_lost(context, facts, found)
    if found is NotLost.UNSEEN:
        return replace(facts, silence=facts.silence.unseen())
    silence = facts.silence.seen(context.clock.monotonic())
    if silence.lasted_s > UNREACHABLE_LIMIT_S:
        machine = context.held_machine()
        if not was_shipped_to(context.home, machine) or _money_is_gone(context, machine):
            why = f"the machine has not answered for {silence.lasted_s / 60:.0f} min"
            return declare_lost(context, facts, Loss(Trouble.LOST, why))
        if silence.is_to_be_said:
            silence = silence.said()
            run = context.run.name
            context.reporter.note(
                f"{machine.tag} runs at ${machine.rate_usd:.2f}/h and has not answered this computer for "
                f"{silence.lasted_s / 60:.0f} min; it is left to train, and its guard ends it within its limit. "
                f"From another network `cloudbooth attach {run}` may reach it; "
                f"`cloudbooth down {run}` gives it back with what it holds"
            )
    return replace(facts, silence=silence)


def look_again(context: RunContext, facts: Facts) -> Facts:
    """Whether a machine that was believed lost answers after all. Raises what the provider raises but MachineGone."""
    return replace(facts, looked_again=True, answers_again=answers_again(context))


def answers_again(context: RunContext) -> bool:
    """Only one that was lost from sight: what is broken or too dear stays lost."""
    machine = context.held_machine()
    if context.machine_stands or machine.trouble not in (Trouble.LOST, Trouble.PREEMPTED):
        return False
    try:
        context.open_remote().host.close()
    except (HostError, MachineGone):
        return False
    return True


def _money_is_gone(context: RunContext, machine: MachineRecord) -> bool:
    machines, ceiling = context.ledger.machines(context.run.name), context.spec.limits.max_cost_usd
    return seconds_left(ceiling, machine.rate_usd, machines, context.clock.now(), machine.rescue_usd) <= 0


def declare_lost(context: RunContext, facts: Facts, loss: Loss) -> Facts:
    """Writes down what happened to the machine, and what its disk may hold alone, before anything is done about it.

    What it had uploaded to the store comes home then. A store that cannot be asked holds nothing up while the machine
    bills: it is asked again before another is rented (`provision.create`). Of a machine that is gone StorageError is
    raised: nothing bills, and nothing is decided without knowing. A machine with a network volume holds
    nothing alone: what it had committed lies there, and the next machine begins with it.
    """
    machine = context.held_machine()
    keeps = _record_loss(context, facts, machine, loss)
    if loss.gone or was_shipped_to(context.home, machine):
        try:
            facts = after_a_loss(context, facts)
            keeps = _record_loss(context, facts, machine, loss)
        except StorageError as error:
            if loss.gone:
                raise
            again = f"`cloudbooth pull {context.run.name}` brings it home later"
            context.reporter.note(f"what the machine had uploaded cannot be asked for now: {error.message}; {again}")
    return replace(facts, machine_lost=loss.why, keeps=keeps)


def _record_loss(context: RunContext, facts: Facts, machine: MachineRecord, loss: Loss) -> Keeps:
    keeps = Keeps.NOTHING
    if not loss.gone and isinstance(context.provider, HasStop) and not context.spec.compute.volume:
        keeps = _kept_alone(context, machine, _silence_s(context, machine, facts))
    context.ledger.record_trouble(
        context.run.name, context.epoch, machine.tag, loss.trouble, loss.why, keeps, stopped=loss.stopped
    )
    return keeps


def _silence_s(context: RunContext, machine: MachineRecord, facts: Facts) -> float:
    """At most so long the machine may have worked unheard. A new driver knows since when it has trained at most."""
    if facts.heard_at_s is not None:
        return context.clock.monotonic() - facts.heard_at_s
    began = [move.at for move in context.ledger.moves(context.run.name) if move.to_state is State.TRAINING]
    return max(0.0, context.clock.now() - max([machine.bills_since, *began]))


def _kept_alone(context: RunContext, machine: MachineRecord, silence_s: float) -> Keeps:
    if not was_shipped_to(context.home, machine):
        return Keeps.NOTHING
    logs = context.home.event_logs()
    log = logs[-1].read_bytes() if logs else b""
    progress = progress_of(log[: log.rfind(b"\n") + 1])
    return kept_alone(progress, context.ledger.artifacts(context.run.name), silence_s)


def was_shipped_to(home: RunHome, machine: MachineRecord) -> bool:
    """It has let us in, and everything was sent to it: it may train, or have trained."""
    with suppress(FileNotFoundError, wire.WireError):
        return wire.loads(wire.Job, home.sent_job.read_bytes()).machine == machine.tag
    return False


def _look(context: RunContext, machine_id: MachineId, record: MachineRecord) -> Loss | NotLost:
    try:
        machine = context.provider.describe(machine_id)
    except MachineGone:
        return Loss(taken_away(record.market), "the provider no longer knows the machine", gone=True)
    except CloudboothError:
        return NotLost.UNSEEN
    if machine.status is MachineStatus.STOPPED:
        return Loss(taken_away(record.market), "the machine has been stopped", stopped=True)
    if machine.status is MachineStatus.FAILED:
        return Loss(Trouble.BROKEN, f"the machine will never come up: {machine.status_text}")
    return NotLost.SEEN
