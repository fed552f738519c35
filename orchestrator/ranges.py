"""A doubtful number as a range, and ranges of time and money as words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    low: float
    expected: float
    high: float

    def __add__(self, other: Range) -> Range:
        """Bounds are added as if all went well, or badly, at once: wider than a sum of independent doubts."""
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def __mul__(self, factor: float) -> Range:
        return Range(self.low * factor, self.expected * factor, self.high * factor)


def usd(amount: float) -> str:
    """Cents, and below ten of them a tenth more: $0.034, $1.20."""
    return f"${amount:.3f}" if 0 < amount < 0.0995 else f"${amount:.2f}"


def usd_range(cost: Range) -> str:
    return f"{usd(cost.expected)} ({usd(cost.low)} to {usd(cost.high)})"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{minutes} min"


def duration_range(time_s: Range) -> str:
    return f"{duration(time_s.expected)} ({duration(time_s.low)} to {duration(time_s.high)})"
