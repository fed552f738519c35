"""Giving the machine back, and making sure that it is gone."""

from __future__ import annotations

from contextlib import suppress

from orchestrator.absence import exists, is_absent
from orchestrator.host import HostError
from orchestrator.latecomers import SETTLE_AGE_S, may_still_show
from orchestrator.ledger import MachineRecord
from orchestrator.lifecycle import EndReason, Facts, State, Wish
from orchestrator.phases.context import RunContext
from orchestrator.phases.persistence import a_few_times
from providers.api import HasBilling, MachineId
from providers.errors import CloudboothError

CONFIRM_POLL_S = 2.0
AGAIN_FIRST_S, AGAIN_LAST_S = 60.0, 300.0
"""Between two calls for the end of a machine that goes on; the user is told of each."""
RELEASE_DEADLINE_S = 1800.0
"""So long after the first call a person has to look."""


def release(context: RunContext, facts: Facts) -> Facts:
    """Releases the machine and waits for its absence. Twice is safe.

    On a machine that stands on its own the run's processes are ended first, and a finished run's folder (with the
    photos) is removed; that of any other is left for `resume`. Raises HostError when such a host cannot be reached
    for a quarter of a minute: then nobody knows whether something still runs there. A rented machine is given back
    whether it answers or not; a finished run's folder on a network volume is removed if it does. One that nobody has
    seen yet is not gone before it is `SETTLE_AGE_S` old. The call is repeated while the machine goes on; raises
    CloudboothError after `RELEASE_DEADLINE_S`, and the machine stays on record as billing.
    """
    return a_few_times(context, lambda: _release_connected(context, facts))


def _release_connected(context: RunContext, facts: Facts) -> Facts:
    machine = context.held_machine()
    assert machine.machine_id is not None
    if context.machine_stands and exists(context.provider, machine.machine_id):
        _end_processes_or_give_up(context)
    if context.spec.compute.volume and context.run.reason is EndReason.DONE:
        _clear_volume(context, machine.machine_id)
    _until_absent(context, machine, machine.machine_id)
    context.settle_absent(machine.tag)
    _read_bill(context, machine.tag, machine.machine_id)
    return facts


def _read_bill(context: RunContext, tag: str, machine_id: MachineId) -> None:
    """Nothing depends on it: without a bill our own count stands."""
    if not isinstance(context.provider, HasBilling):
        return
    with suppress(CloudboothError):
        billed = context.provider.billed_usd(machine_id)
        if billed is not None:
            context.ledger.record_bill(tag, billed)


def _end_processes_or_give_up(context: RunContext) -> None:
    """A person may say that the machine is gone for good, and only a person."""
    try:
        _end_processes(context)
    except HostError as error:
        if context.wish() is not Wish.ABANDON:
            hint = f"`cloudbooth down {context.run.name} --force` gives the machine up, whatever still runs there"
            raise type(error)(error.message, f"{error.hint}; {hint}" if error.hint else hint) from None
        context.reporter.note(f"{error.message}; given up as it is: what still runs there goes on, and its files stay")


def _clear_volume(context: RunContext, machine_id: MachineId) -> None:
    """The machine bills meanwhile, so it is tried once."""
    try:
        if exists(context.provider, machine_id):
            _end_processes(context)
    except CloudboothError as error:
        volume = context.spec.compute.volume
        context.reporter.note(f"the run's folder stays on the volume {volume}, photos included: {error.message}")


def _end_processes(context: RunContext) -> None:
    remote = context.open_remote()
    try:
        remote.stop(now=True)
        if context.run.reason is EndReason.DONE:
            remote.forget()
    finally:
        remote.host.close()


def _until_absent(context: RunContext, machine: MachineRecord, machine_id: MachineId) -> None:
    """Gives it back, and once more when it shows only after that: the first call may have found nothing to end."""
    shown = context.machine_stands or _has_answered(context, machine) or exists(context.provider, machine_id)
    context.provider.release(machine_id)  # also one that seems gone: a single answer may be wrong
    if not shown and may_still_show(machine, context.clock.now()):
        context.reporter.note(f"{machine.tag} does not show yet; it is looked for until it is {SETTLE_AGE_S:.0f} s old")
    began_s = asked_at_s = context.clock.monotonic()
    pause_s = AGAIN_FIRST_S
    while not (_is_absent(context, machine_id) and (shown or not may_still_show(machine, context.clock.now()))):
        if not shown and exists(context.provider, machine_id):
            shown = True
            context.provider.release(machine_id)
        now_s = context.clock.monotonic()
        if now_s - began_s >= RELEASE_DEADLINE_S:
            raise CloudboothError(
                f"{machine.provider} goes on showing {machine.tag} ({machine_id}), which was given back "
                f"{(now_s - began_s) / 60:.0f} min ago and may still bill",
                f"delete it in the console of {machine.provider}; then `cloudbooth attach {context.run.name}`",
            )
        if now_s - asked_at_s >= pause_s:
            context.reporter.note(
                f"{machine.tag} still exists {now_s - began_s:.0f} s after it was given back; asking again"
            )
            context.provider.release(machine_id)
            asked_at_s, pause_s = now_s, min(2 * pause_s, AGAIN_LAST_S)
        context.require_driver()
        context.clock.sleep(CONFIRM_POLL_S)


def _has_answered(context: RunContext, machine: MachineRecord) -> bool:
    moves = context.ledger.moves(context.run.name)
    return any(move.to_state is State.SHIPPING and move.at >= machine.intent_at for move in moves)


def _is_absent(context: RunContext, machine_id: MachineId) -> bool:
    """What stands on its own answers from a folder on this computer: once is enough."""
    if context.machine_stands:
        return not exists(context.provider, machine_id)
    return is_absent(context.provider, machine_id, context.clock.sleep)
