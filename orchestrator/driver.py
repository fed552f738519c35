"""The loop that drives a run: load, ask `next_step`, do it, repeat. Any process can resume any run.

One driver per run: an OS file lock keeps a second process of this machine out, and the epoch in the ledger keeps a
process out that lost its lock without noticing (a laptop that slept, a copied home). Kill it on any line: the next
driver reads the ledger, asks the host, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from orchestrator.budget import may_rent_again, seconds_left
from orchestrator.errors import WishChanged
from orchestrator.host import ConnectionLost, HostUnreachable
from orchestrator.keeping import keep_left_s, users_of
from orchestrator.latecomers import give_back_what_came_late
from orchestrator.ledger import MachineRecord
from orchestrator.lifecycle import (
    Do,
    EndReason,
    Facts,
    Finished,
    Keeps,
    Move,
    Phase,
    Standing,
    State,
    facts_after,
    next_step,
)
from orchestrator.phases import follow, keep, provision, release, rescue, retrieve, ship
from orchestrator.phases.context import RunContext
from orchestrator.phases.loss import after_no_answer, look_again
from orchestrator.silence import NO_SILENCE
from providers.errors import MachineGone, Transient

UNREACHABLE_PAUSE_S = 10.0

PHASES: dict[Phase, Callable[[RunContext, Facts], Facts]] = {
    Phase.CREATE: provision.create,
    Phase.SETTLE: provision.settle,
    Phase.AWAIT: provision.await_ready,
    Phase.LOOK: provision.look,
    Phase.LOOK_AGAIN: look_again,
    Phase.SHIP: ship.ship,
    Phase.FOLLOW: follow.follow,
    Phase.RETRIEVE: retrieve.retrieve,
    Phase.REVIVE: rescue.revive,
    Phase.KEEP: keep.keep,
    Phase.RELEASE: release.release,
}

TALKING = frozenset({Phase.LOOK, Phase.SHIP, Phase.RETRIEVE, Phase.KEEP})
"""Phases that have heard from the host when they return."""


def drive(context: RunContext) -> EndReason:
    """Drives the run to its end and returns why it ended.

    An error leaves the run in its state, to be driven again; StaleDriver means that somebody else does already.
    """
    drive_until(context, State.ENDED)
    reason = context.ledger.run(context.run.name).reason
    assert reason is not None
    return reason


def drive_until(context: RunContext, state: State) -> bool:
    """Drives until the run has entered `state`, and no further. False when it ended without. Errors as `drive`."""
    facts = Facts()
    while True:
        run = context.ledger.run(context.run.name)
        if run.state is state:
            return True
        context = replace(context, run=run)
        machine = context.machine()
        standing = machine.standing if machine else Standing.NONE
        facts = _with_what_the_ledger_knows(context, facts, machine)
        match next_step(run.state, run.wish, run.reason, standing, facts):
            case Finished():
                return False
            case Move() as move:
                if move.to in (State.PROVISIONING, State.ENDED):
                    give_back_what_came_late(
                        context.provider, context.ledger, run, context.clock, context.reporter.note
                    )
                context.ledger.move(run.name, context.epoch, run.state, move.to, move.why, move.reason)
                context.reporter.moved(move.to, move.why)
                facts = facts_after(move, run.state, facts)
            case Do(phase):
                facts = _do(phase, context, facts)


def _do(phase: Phase, context: RunContext, facts: Facts) -> Facts:
    """The phase. That the machine is lost is a fact, and so is that the user wants something else by now; any other
    failure is an error.

    A rented machine that cannot be reached, by SSH or because nobody can be asked where it is, is tried again, since it
    bills, until it is lost (`after_no_answer`); for one that stands on its own the error is the owner's to read.
    """
    try:
        after = PHASES[phase](context, facts)
        heard_at_s = context.clock.monotonic() if phase in TALKING else after.heard_at_s
        return replace(after, silence=NO_SILENCE, heard_at_s=heard_at_s)
    except WishChanged:
        return facts
    except (HostUnreachable, ConnectionLost, MachineGone, Transient) as error:
        if isinstance(error, Transient) and phase not in TALKING:
            raise
        if isinstance(error, ConnectionLost):  # a connection had stood
            facts = replace(facts, silence=NO_SILENCE)
        facts = after_no_answer(context, facts, is_being_started=phase is Phase.REVIVE)
        if facts.machine_lost:
            return facts
        if context.machine_stands:
            raise
        context.reporter.note(f"{error.message}; trying again in {UNREACHABLE_PAUSE_S:.0f} s")
        context.clock.sleep(UNREACHABLE_PAUSE_S)
        context.require_driver()
        return facts


def _with_what_the_ledger_knows(context: RunContext, facts: Facts, machine: MachineRecord | None) -> Facts:
    limits, now = context.spec.limits, context.clock.now()
    machines = context.ledger.machines(context.run.name)
    since = machine.keeps_since if machine is not None else None
    return replace(
        facts,
        keep_left_s=_keep_left_s(context, machine, machines, now),
        may_rent_again=may_rent_again(limits.max_cost_usd, context.run.attempt, machines, now),
        keeps=machine.keeps if machine is not None else Keeps.NOTHING,
        rescue_over=since is not None and now - since > limits.rescue_hours * 3600,
    )


def _keep_left_s(
    context: RunContext, machine: MachineRecord | None, machines: list[MachineRecord], now: float
) -> float:
    limits = context.spec.limits
    if machine is None or context.machine_stands or limits.keep_minutes == 0:
        return 0.0
    moves = context.ledger.moves(context.run.name)
    since = next((move.at for move in reversed(moves) if move.to_state is State.KEEPING), now)
    kept_for_s = now - since if context.run.state is State.KEEPING else 0.0
    money_left_s = seconds_left(limits.max_cost_usd, machine.rate_usd, machines, now)
    in_use = bool(users_of(context.ledger, machine))
    return keep_left_s(limits.keep_minutes * 60, kept_for_s, money_left_s, in_use=in_use)
