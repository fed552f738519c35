"""Giving the machine back, and making sure that it is gone."""

from __future__ import annotations

from orchestrator.errors import StaleDriver
from orchestrator.lifecycle import EndReason, Facts
from orchestrator.phases.context import RunContext
from orchestrator.phases.persistence import a_few_times
from providers.api import MachineId
from providers.errors import MachineGone

CONFIRM_POLL_S = 2.0


def release(context: RunContext, facts: Facts) -> Facts:
    """Ends the run's processes on the host, releases the machine and waits for its absence. Twice is safe.

    A finished run's folder (with the photos) is removed from the host; that of any other is left for `resume`.
    Raises HostError when the host cannot be reached for half a minute: then nobody knows whether something still
    runs there.
    """
    return a_few_times(context, lambda: _release_connected(context, facts))


def _release_connected(context: RunContext, facts: Facts) -> Facts:
    machine = context.held_machine()
    assert machine.machine_id is not None
    if _exists(context, machine.machine_id):
        _end_processes(context)
        context.provider.release(machine.machine_id)
    while _exists(context, machine.machine_id):
        if context.ledger.run(context.run.name).driver_epoch != context.epoch:
            raise StaleDriver(f"another process drives run `{context.run.name}` now")
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


def _exists(context: RunContext, machine_id: MachineId) -> bool:
    try:
        context.provider.describe(machine_id)
    except MachineGone:
        return False
    return True
