"""Dollars: what was spent, and what may still be billed. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.ledger import MachineRecord


def spent_usd(machines: Iterable[MachineRecord], now: float) -> float:
    """From each machine's creation to its confirmed absence, or to `now` (Unix seconds) while that is open.

    A machine whose `create` was never answered counts from its intent: it may exist.
    """
    total = 0.0
    for machine in machines:
        if machine.machine_id is None and machine.absent_at is not None:
            continue  # nothing came of the intent
        since = machine.created_at if machine.created_at is not None else machine.intent_at
        until = machine.absent_at if machine.absent_at is not None else now
        total += max(0.0, until - since) / 3600 * machine.price_per_hour_usd
    return total


def may_bill(machines: Iterable[MachineRecord]) -> list[MachineRecord]:
    """Those that cost money and whose absence nobody has confirmed."""
    return [machine for machine in machines if machine.absent_at is None and machine.price_per_hour_usd > 0]
