"""A clock that moves only when told to, or when somebody sleeps on it."""

from __future__ import annotations


class FakeClock:
    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self._now = now
        self._start = now
        self.slept: list[float] = []

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now - self._start

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._now += seconds
