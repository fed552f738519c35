"""Dollars: what was spent, what may still be billed, and how long the rest lasts. Pure."""

from __future__ import annotations

import math
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
        until = machine.absent_at if machine.absent_at is not None else now
        total += max(0.0, until - machine.bills_since) / 3600 * machine.price_per_hour_usd
    return total


def may_bill(machines: Iterable[MachineRecord]) -> list[MachineRecord]:
    """Those that cost money and whose absence nobody has confirmed."""
    return [machine for machine in machines if machine.absent_at is None and machine.price_per_hour_usd > 0]


MAX_MACHINES = 12
"""Of one attempt: a bound on losses that no ceiling in dollars would notice soon."""
WORTH_RENTING_S = 600.0
"""Less time than this on a machine is spent on booting and shipping alone."""
RESERVE_SHARE = 0.1
RESERVE_LIMITS_S = (60.0, 900.0)
"""Kept back from a machine's time for the way home of what it made: a tenth, within these bounds."""


def seconds_left(
    max_cost_usd: float, price_per_hour_usd: float, machines: Iterable[MachineRecord], now: float
) -> float:
    """How long a machine at this price can be paid for from `now` on, all attempts counted. Infinite at no price."""
    if price_per_hour_usd <= 0:
        return math.inf
    return (max_cost_usd - spent_usd(machines, now)) / price_per_hour_usd * 3600


def may_rent_again(max_cost_usd: float, attempt: int, machines: list[MachineRecord], now: float) -> bool:
    """Whether another machine at the price of the last is worth taking; `machines` are those of all attempts."""
    if sum(machine.attempt == attempt for machine in machines) >= MAX_MACHINES:
        return False
    price = machines[-1].price_per_hour_usd if machines else 0.0
    return seconds_left(max_cost_usd, price, machines, now) >= WORTH_RENTING_S


def reserve_s(left_s: float) -> float:
    """Seconds of `left_s` in which the result comes home while the machine still bills."""
    low, high = RESERVE_LIMITS_S
    return min(high, max(low, RESERVE_SHARE * left_s))


def training_deadline_s(
    max_cost_usd: float,
    price_per_hour_usd: float,
    max_hours: float | None,
    machines: list[MachineRecord],
    now: float,
) -> float | None:
    """Seconds after which the supervisor must have ended; None where neither money nor the user sets a limit.

    From what is left a reserve is kept back, in which the result comes home while the machine still bills.
    """
    left_s = seconds_left(max_cost_usd, price_per_hour_usd, machines, now)
    if not math.isinf(left_s):
        left_s = max(0.0, left_s - reserve_s(left_s))
    limits = [limit for limit in (left_s, None if max_hours is None else max_hours * 3600) if limit is not None]
    limits = [limit for limit in limits if not math.isinf(limit)]
    return min(limits) if limits else None
