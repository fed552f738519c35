"""Machines that nobody waits for any more: late answers of lost creates, and what an ended run left behind.

A provider may list a machine only long after it was made. So an intent of which nothing seemed to come is looked for
again for a day, by the run's driver and by whatever command runs next, and what shows up is given back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from orchestrator.absence import is_absent
from orchestrator.clock import Clock
from orchestrator.ledger import Ledger, MachineRecord, RunRecord
from orchestrator.lifecycle import State
from orchestrator.orphans import tag_prefix
from providers.api import Bills, MachineId
from providers.errors import CloudboothError

SETTLE_AGE_S = 180.0
"""Providers have been seen to list a machine only minutes after it was made: what never showed is not gone before."""
RECHECK_S = 24 * 3600.0


@dataclass(frozen=True)
class Ended:
    """Something that billed and bills no more."""

    tag: str
    id: MachineId
    began_at: float
    """Unix seconds."""
    billed_s: float


@runtime_checkable
class ShowsEnded(Protocol):
    """Of `Bills`: what is over stays in sight, as finished jobs do. So it counts, though nobody saw it at work."""

    def ended(self, prefix: str) -> Sequence[Ended]:
        """By tag prefix, as `list`."""
        ...


def latecomers(machines: Iterable[MachineRecord], now: float) -> list[MachineRecord]:
    """Intents of the last day that were never answered, and of which nothing is believed to have come."""
    return [
        machine
        for machine in machines
        if machine.machine_id is None and machine.absent_at is not None and now - machine.intent_at < RECHECK_S
    ]


def may_still_show(machine: MachineRecord, now: float) -> bool:
    """Whether no sign of it proves nothing: it is young, and was never judged by what the provider showed of it."""
    return machine.trouble is None and now - machine.intent_at < SETTLE_AGE_S


def strays(machines: Iterable[MachineRecord], runs: Iterable[RunRecord]) -> list[MachineRecord]:
    """Machines without a confirmed absence that their run does not look after: it has ended, or has a newer one."""
    ordered, runs_by_name = list(machines), {run.name: run for run in runs}
    newest = {(machine.run, machine.attempt): machine.tag for machine in ordered}
    return [machine for machine in ordered if _is_stray(machine, runs_by_name[machine.run], newest)]


def expired_rescues(
    machines: Iterable[MachineRecord],
    rescue_hours: Callable[[MachineRecord], float],
    is_driven: Callable[[MachineRecord], bool],
    now: float,
) -> list[MachineRecord]:
    """Stopped disks that were kept for a model for as long as `limits.rescue_hours` says, and that no driver looks
    after now: a driver gives them up by itself.
    """
    return [
        machine
        for machine in machines
        if machine.stopped and machine.machine_id is not None and machine.absent_at is None
        and machine.keeps_since is not None and now - machine.keeps_since > rescue_hours(machine) * 3600
        and not is_driven(machine)
    ]  # fmt: skip


def give_back_latecomers(
    provider: Bills, ledger: Ledger, expected: Sequence[MachineRecord], told: Callable[[str], None]
) -> None:
    """One list; what it shows of `expected` bills, so it is written down, and given back. What is over already is
    written down with what it cost. Twice is safe.

    Raises what the provider raises.
    """
    listed = {machine.tag: machine.id for machine in provider.list(tag_prefix(ledger.installation))}
    for machine in expected:
        machine_id = listed.get(machine.tag)
        if machine_id is not None:
            ledger.reopen(machine.tag, machine_id)
            told(f"{machine.tag} has shown up at {machine.provider} after all and is given back")
            provider.release(machine_id)
    gone = [machine for machine in expected if machine.tag not in listed]
    for machine, usd in _record_ends(provider, ledger, gone):
        told(f"{machine.tag} was at {machine.provider} after all; it is over and has cost ${usd:.2f}")


def _record_ends(
    provider: Bills, ledger: Ledger, machines: Sequence[MachineRecord]
) -> list[tuple[MachineRecord, float]]:
    """Those of `machines` that the provider shows as over, with what each has cost, which is on record then."""
    if not machines or not isinstance(provider, ShowsEnded):
        return []
    by_tag = {ended.tag: ended for ended in provider.ended(tag_prefix(ledger.installation))}
    found = []
    for machine in machines:
        if (ended := by_tag.get(machine.tag)) is not None:
            usd = ended.billed_s * machine.price_per_hour_usd / 3600
            ledger.record_ended(machine.tag, ended.id, ended.began_at, ended.began_at + ended.billed_s, usd)
            found.append((machine, usd))
    return found


def give_back_strays(
    provider: Bills,
    ledger: Ledger,
    left_behind: Iterable[MachineRecord],
    clock: Clock,
    told: Callable[[str], None],
) -> None:
    """Gives them back (again: that is safe) and confirms the absence of those that are gone; that of one which may
    still show is left to a later look.

    Raises what the provider raises.
    """
    for machine in left_behind:
        assert machine.machine_id is not None
        provider.release(machine.machine_id)
        if is_absent(provider, machine.machine_id, clock.sleep) and not may_still_show(machine, clock.now()):
            ledger.confirm_absent(machine.tag)
            _record_ends(provider, ledger, [machine])
            told(f"{machine.tag} is gone")


def give_back_what_came_late(
    provider: Bills, ledger: Ledger, run: RunRecord, clock: Clock, told: Callable[[str], None]
) -> None:
    """Of a run's intents that seemed to have come to nothing. A failure is told: later commands look again."""
    try:
        if expected := latecomers(ledger.machines(run.name), clock.now()):
            give_back_latecomers(provider, ledger, expected, told)
        give_back_strays(provider, ledger, strays(ledger.machines(run.name), [run]), clock, told)
    except CloudboothError as error:
        told(f"looking for late machines failed: {error.message}")


def _is_stray(machine: MachineRecord, run: RunRecord, newest: dict[tuple[str, int], str]) -> bool:
    if machine.absent_at is not None or machine.machine_id is None:
        return False
    current = machine.attempt == run.attempt and newest[machine.run, machine.attempt] == machine.tag
    return run.state is State.ENDED or not current
