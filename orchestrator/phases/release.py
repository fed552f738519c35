"""Giving the machine back, and making sure that it is gone."""

from __future__ import annotations

from orchestrator.lifecycle import EndReason, Facts
from orchestrator.phases.context import RunContext
from orchestrator.phases.loss import AGREEMENT_S
from orchestrator.phases.persistence import a_few_times
from providers.api import MachineId
from providers.errors import MachineGone

CONFIRM_POLL_S = 2.0


def release(context: RunContext, facts: Facts) -> Facts:
    """Releases the machine and waits for its absence. Twice is safe.

    On a machine that stands on its own the run's processes are ended first, and a finished run's folder (with the
    photos) is removed; that of any other is left for `resume`. Raises HostError when such a host cannot be reached
    for a quarter of a minute: then nobody knows whether something still runs there. A rented machine is given back
    whether it answers or not.
    """
    return a_few_times(context, lambda: _release_connected(context, facts))


def _release_connected(context: RunContext, facts: Facts) -> Facts:
    machine = context.held_machine()
    assert machine.machine_id is not None
    if context.machine_stands and _exists(context, machine.machine_id):
        _end_processes(context)
    context.provider.release(machine.machine_id)  # also one that seems gone: a single answer may be wrong
    while not _is_absent(context, machine.machine_id):
        context.require_driver()
        context.clock.sleep(CONFIRM_POLL_S)
    context.ledger.record_absent(context.run.name, context.epoch, machine.tag)
    return facts


def _end_processes(context: RunContext) -> None:
    remote = context.open_remote()
    try:
        remote.stop(now=True)
        if context.run.reason is EndReason.DONE:
            remote.forget()
    finally:
        remote.host.close()


def _is_absent(context: RunContext, machine_id: MachineId) -> bool:
    """One answer may be wrong: two that agree are believed."""
    if _exists(context, machine_id):
        return False
    if context.machine_stands:
        return True
    context.clock.sleep(AGREEMENT_S)
    return not _exists(context, machine_id)


def _exists(context: RunContext, machine_id: MachineId) -> bool:
    try:
        context.provider.describe(machine_id)
    except MachineGone:
        return False
    return True
