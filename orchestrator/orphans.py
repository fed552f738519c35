"""Machines that exist at a provider and that no run of this installation answers for. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.ledger import MachineRecord, RunRecord
from orchestrator.lifecycle import State
from providers.api import Machine


@dataclass(frozen=True)
class Orphan:
    """A machine to be given back, and why nobody needs it."""

    provider: str
    machine: Machine
    why: str


ANY_TAG_PREFIX = "cb-"
"""Of the machines of every installation."""


def tag_prefix(installation: str) -> str:
    """What the tags of this installation's machines begin with; `gc` touches no others."""
    return f"{ANY_TAG_PREFIX}{installation}-"


def find_orphans(
    provider: str, listed: Iterable[Machine], known: Iterable[MachineRecord], runs: Iterable[RunRecord]
) -> list[Orphan]:
    """Of the machines that a provider lists under our prefix, those that no unfinished run holds.

    A machine whose run still goes on is that run's driver's to release, whatever state it is in.
    """
    record_of = {record.tag: record for record in known}
    state_of = {run.name: run.state for run in runs}
    found = []
    for machine in listed:
        record = record_of.get(machine.tag)
        if record is None:
            found.append(Orphan(provider, machine, "no run of this installation knows it"))
        elif state_of.get(record.run, State.ENDED) is State.ENDED:
            found.append(Orphan(provider, machine, f"its run `{record.run}` has ended"))
        elif record.absent_at is not None:
            found.append(Orphan(provider, machine, f"run `{record.run}` believes it gone"))
    return found
