"""Dollars: what was spent, what may still be billed, and how long the rest lasts. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.latecomers import RECHECK_S
from orchestrator.ledger import MachineRecord
from orchestrator.lifecycle import Trouble


def spent_usd(machines: Iterable[MachineRecord], now: float) -> float:
    """From each machine's creation to its confirmed absence, or to `now` (Unix seconds) while that is open.

    A machine whose `create` was never answered counts from its intent: it may exist. While it may still show up, what
    it costs until its guard ends it counts in full, though no list shows it. This is the count that ceilings are held
    by, on the high side of the truth: loading an image counts in full, and so does the wait for absence.
    """
    return sum(_counted_usd(machine, now) + _unseen_usd(machine, now) for machine in machines)


def unseen_usd(machines: Iterable[MachineRecord], now: float) -> float:
    """The part of `spent_usd` that is kept for machines that no list shows and that may exist all the same."""
    return sum(_unseen_usd(machine, now) for machine in machines)


def cost_usd(machines: Iterable[MachineRecord], now: float) -> float:
    """What a run has cost, for people: the provider's bill for each machine that has one, else our own count."""
    return sum(_billed_or_counted_usd(machine, now) for machine in machines)


BELIEVABLE_BILL = 0.5
"""Of our own count. Bills come late: one below it is taken for the beginning of a bill."""
BILL_SLACK_S = 300.0
"""Unless it lacks no more than this of the machine's time: we count until its absence is confirmed, and the boot."""


def _billed_or_counted_usd(machine: MachineRecord, now: float) -> float:
    counted, billed = _counted_usd(machine, now), machine.billed_usd
    slack = BILL_SLACK_S / 3600 * machine.price_per_hour_usd
    return counted if billed is None or billed < min(BELIEVABLE_BILL * counted, counted - slack) else billed


def _counted_usd(machine: MachineRecord, now: float) -> float:
    """Its traffic counts in full from the first second: nobody says how many bytes have gone so far."""
    spans = rate_spans(machine, now)
    return sum(span.seconds / 3600 * span.usd_per_hour for span in spans) + (machine.traffic_usd if spans else 0.0)


@dataclass(frozen=True)
class RateSpan:
    """A time in which a machine bills at one rate."""

    start: float
    end: float
    usd_per_hour: float

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.start)


def rate_spans(machine: MachineRecord, now: float) -> list[RateSpan]:
    """What our own count of a machine is made of, in Unix seconds; none where nothing came of the intent, as far as can
    be seen.
    """
    if machine.machine_id is None and machine.absent_at is not None:
        return []
    until = machine.absent_at if machine.absent_at is not None else now
    if machine.machine_id is None:
        until = min(until, machine.intent_at + _longest_unseen_s(machine))
    changes = [(machine.bills_since, machine.price_per_hour_usd)]
    changes += [(rate.at, rate.usd_per_hour) for rate in machine.rates]
    ends = [at for at, _ in changes[1:]] + [until]
    return [RateSpan(at, end, usd) for (at, usd), end in zip(changes, ends, strict=True)]


def _unseen_usd(machine: MachineRecord, now: float) -> float:
    """What an answer that was lost may still cost: a machine that no list shows, until it ends itself."""
    unseen = machine.machine_id is None and machine.absent_at is not None and not machine.refused
    if not unseen or now - machine.intent_at >= RECHECK_S:
        return 0.0
    return _longest_unseen_s(machine) / 3600 * machine.price_per_hour_usd


def _longest_unseen_s(machine: MachineRecord) -> float:
    return BOOT_DEADLINE_S + (FIRST_LEASE_LIMITS_S[1] if machine.first_lease_s is None else machine.first_lease_s)


def may_bill(machines: Iterable[MachineRecord]) -> list[MachineRecord]:
    """Those that cost money and whose absence nobody has confirmed."""
    return [machine for machine in machines if machine.absent_at is None and machine.price_per_hour_usd > 0]


MAX_MACHINES = 12
"""Of one attempt: a bound on losses that no ceiling in dollars would notice soon."""
MAX_BROKEN = 4
"""Of one attempt: machines that never answered, or without a GPU that works. More of them are not bad luck."""
REVIVAL_S = 600.0
"""What is kept back for starting a stopped machine once more and bringing home what it holds."""
BOOT_DEADLINE_S = 600.0
"""A rented machine that has not let us in after this long is given back: a cold image takes minutes on a good host."""
FIRST_LEASE_LIMITS_S = (300.0, BOOT_DEADLINE_S + 900.0)
"""From the start of a machine's guard until somebody must have renewed: enough for a login, and at most for a whole
boot with a margin, where the guard comes before the image."""
WORTH_RENTING_S = BOOT_DEADLINE_S + FIRST_LEASE_LIMITS_S[0]
"""What a machine may bill that boots slowly and is reached by nobody. Less money than that buys no training either."""
RESERVE_SHARE = 0.1
RESERVE_LIMITS_S = (60.0, 900.0)
"""Kept back from a machine's time for the way home of what it made: a tenth, within these bounds."""


def rescue_usd(price_per_hour_usd: float, disk_per_day_usd: float, rescue_hours: float) -> float:
    """What a machine costs that is stopped with the only copy, kept to the last hour and started once more."""
    return disk_per_day_usd * rescue_hours / 24 + price_per_hour_usd * REVIVAL_S / 3600


def seconds_left(
    max_cost_usd: float,
    price_per_hour_usd: float,
    machines: Iterable[MachineRecord],
    now: float,
    kept_back_usd: float = 0.0,
) -> float:
    """How long a machine at this price can be paid for from `now` on, all attempts counted. Infinite at no price.

    `kept_back_usd` is inside the ceiling and not spent on this: the machine's `rescue_usd`. Negative when the ceiling
    is broken already.
    """
    if price_per_hour_usd <= 0:
        return math.inf
    return (max_cost_usd - kept_back_usd - spent_usd(machines, now)) / price_per_hour_usd * 3600


def first_lease_s(left_s: float) -> float:
    """How long a machine may wait for its first login when the ceiling pays for `left_s` of it, its boot included."""
    shortest, longest = FIRST_LEASE_LIMITS_S
    return max(shortest, min(longest, left_s - BOOT_DEADLINE_S))


def used_before_s(machine: MachineRecord, machines: Iterable[MachineRecord], now: float) -> float:
    """How long the attempt has held other machines than this one: `limits.max_hours` spans them all."""
    return sum(
        max(0.0, (now if other.absent_at is None else other.absent_at) - other.bills_since)
        for other in machines
        if other.attempt == machine.attempt and other.tag != machine.tag and other.machine_id is not None
    )


def may_rent_again(max_cost_usd: float, attempt: int, machines: list[MachineRecord], now: float) -> bool:
    """Whether another machine at the price of the last is worth taking; `machines` are those of all attempts."""
    of_attempt = [machine for machine in machines if machine.attempt == attempt and machine.machine_id is not None]
    if len(of_attempt) >= MAX_MACHINES or sum(m.trouble is Trouble.BROKEN for m in of_attempt) >= MAX_BROKEN:
        return False
    price = machines[-1].price_per_hour_usd if machines else 0.0
    return seconds_left(max_cost_usd, price, machines, now) >= WORTH_RENTING_S


def reserve_s(left_s: float) -> float:
    """Seconds of `left_s` in which the result comes home while the machine still bills."""
    low, high = RESERVE_LIMITS_S
    return min(high, max(low, RESERVE_SHARE * left_s))


@dataclass(frozen=True)
class TimeLimits:
    """How long one machine may be at work, in seconds from the first start of its supervisor."""

    hours_left_s: float | None
    """What the user's own limit leaves for training; None without one."""
    limit_s: float | None
    """When the machine itself must have ended, its money being gone; None where nobody pays."""
    reserve_s: float
    """How long before `limit_s` training has to end, so that its result comes home; as planned."""

    @property
    def deadline_s(self) -> float | None:
        """When training must have ended; None where neither money nor the user sets a limit."""
        limits = [] if self.limit_s is None else [max(0.0, self.limit_s - self.reserve_s)]
        return min([*limits, *([] if self.hours_left_s is None else [self.hours_left_s])], default=None)


def time_limits(
    max_cost_usd: float,
    price_per_hour_usd: float,
    max_hours: float | None,
    machines: list[MachineRecord],
    now: float,
    kept_back_usd: float = 0.0,
    used_s: float = 0.0,
) -> TimeLimits:
    """What the ceiling and the user's own limit leave. `used_s` of `max_hours` went to earlier machines."""
    left_s = seconds_left(max_cost_usd, price_per_hour_usd, machines, now, kept_back_usd)
    hours_left_s = None if max_hours is None else max(0.0, max_hours * 3600 - used_s)
    return TimeLimits(hours_left_s, None if math.isinf(left_s) else max(0.0, left_s), reserve_s(left_s))


def training_deadline_s(
    max_cost_usd: float,
    price_per_hour_usd: float,
    max_hours: float | None,
    machines: list[MachineRecord],
    now: float,
    kept_back_usd: float = 0.0,
) -> float | None:
    """`TimeLimits.deadline_s` alone, for a plan."""
    return time_limits(max_cost_usd, price_per_hour_usd, max_hours, machines, now, kept_back_usd).deadline_s
