"""Telling a lost machine from a lost connection, by asking the provider and not by guessing; and what that loses."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace

from orchestrator.home import RunHome
from orchestrator.ledger import MachineRecord
from orchestrator.lifecycle import Facts, Keeps, Trouble
from orchestrator.mirror import progress_of
from orchestrator.phases.context import RunContext
from orchestrator.phases.storage import after_a_loss
from orchestrator.recovery import kept_alone, taken_away
from providers.api import HasStop, MachineId, MachineStatus
from providers.errors import CloudboothError, MachineGone
from remote_trainer import wire

UNREACHABLE_LIMIT_S = 600.0
"""A rented machine that the provider calls running and that answers nobody for this long is given back."""
UNREACHABLE_TRIES = 6
"""But not before it was tried this often: most of that time a laptop may have slept, and its network wakes after it."""
AGREEMENT_S = 5.0
"""One answer may be wrong: a loss is believed when two answers this far apart agree."""


@dataclass(frozen=True)
class Loss:
    trouble: Trouble
    why: str
    stopped: bool = False
    """The machine exists, is not running, and keeps its disk."""
    gone: bool = False
    """Nothing of it exists, its disk neither."""


def loss_of_machine(context: RunContext) -> Loss | None:
    """Why the machine of the run can no longer be used; None while it may be, or nobody can tell.

    A machine that stands on its own is never lost: its owner decides.
    """
    machine = context.machine()
    if context.machine_stands or machine is None or machine.machine_id is None:
        return None
    first = _look(context, machine.machine_id, machine)
    if first is None:
        return None
    context.clock.sleep(AGREEMENT_S)
    return _look(context, machine.machine_id, machine)


def declare_lost(context: RunContext, facts: Facts, loss: Loss) -> Facts:
    """Writes down what happened to the machine, and what its disk may hold alone, before anything is done about it.

    What it had uploaded to the store comes home first. Raises StorageError when the store cannot be asked. A machine
    with a network volume holds nothing alone: what it had committed lies there, and the next machine begins with it.
    """
    facts = after_a_loss(context, facts)
    machine = context.held_machine()
    keeps = Keeps.NOTHING
    if not loss.gone and isinstance(context.provider, HasStop) and not context.spec.compute.volume:
        silence_s = math.inf if facts.heard_at_s is None else context.clock.monotonic() - facts.heard_at_s
        keeps = _kept_alone(context, machine, silence_s)
    context.ledger.record_trouble(
        context.run.name, context.epoch, machine.tag, loss.trouble, loss.why, keeps, stopped=loss.stopped
    )
    return replace(facts, machine_lost=loss.why, keeps=keeps)


def _kept_alone(context: RunContext, machine: MachineRecord, silence_s: float) -> Keeps:
    if not _was_shipped_to(context.home, machine):
        return Keeps.NOTHING
    logs = context.home.event_logs()
    log = logs[-1].read_bytes() if logs else b""
    progress = progress_of(log[: log.rfind(b"\n") + 1])
    return kept_alone(progress, context.ledger.artifacts(context.run.name), silence_s)


def _was_shipped_to(home: RunHome, machine: MachineRecord) -> bool:
    with suppress(FileNotFoundError, wire.WireError):
        return wire.loads(wire.Job, home.sent_job.read_bytes()).machine == machine.tag
    return False


def _look(context: RunContext, machine_id: MachineId, record: MachineRecord) -> Loss | None:
    try:
        machine = context.provider.describe(machine_id)
    except MachineGone:
        return Loss(taken_away(record.market), "the provider no longer knows the machine", gone=True)
    except CloudboothError:
        return None  # no answer is no proof
    if machine.status is MachineStatus.STOPPED:
        return Loss(taken_away(record.market), "the machine has been stopped", stopped=True)
    if machine.status is MachineStatus.FAILED:
        return Loss(Trouble.BROKEN, f"the machine will never come up: {machine.status_text}")
    return None
