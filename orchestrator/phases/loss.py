"""Telling a lost machine from a lost connection, by asking the provider and not by guessing."""

from __future__ import annotations

from orchestrator.phases.context import RunContext
from providers.api import MachineId, MachineStatus
from providers.errors import CloudboothError, MachineGone

UNREACHABLE_LIMIT_S = 600.0
"""A rented machine that the provider calls running and that answers nobody for this long is given back."""
AGREEMENT_S = 5.0
"""One answer may be wrong: a loss is believed when two answers this far apart agree."""


def loss_of_machine(context: RunContext) -> str:
    """Why the machine of the run can no longer be used; empty while it may be, or nobody can tell.

    A machine that stands on its own is never lost: its owner decides.
    """
    machine = context.machine()
    if context.machine_stands or machine is None or machine.machine_id is None:
        return ""
    first = _look(context, machine.machine_id)
    if not first:
        return ""
    context.clock.sleep(AGREEMENT_S)
    return _look(context, machine.machine_id)


def _look(context: RunContext, machine_id: MachineId) -> str:
    try:
        machine = context.provider.describe(machine_id)
    except MachineGone:
        return "the provider no longer knows the machine"
    except CloudboothError:
        return ""  # no answer is no proof
    if machine.status is MachineStatus.STOPPED:
        return "the provider has stopped the machine"
    return ""
