"""How long a transfer will take: said only when it is known. Pure; the caller brings the time."""

from __future__ import annotations

from collections import deque

WINDOW_S = 10.0
"""What was moved before counts no more: links change, and the mean of an hour says nothing about the next minute."""
ENOUGH_S = 2.0
STALLED_S = 5.0


class Pace:
    """Of one transfer, from the bytes that it tells."""

    def __init__(self) -> None:
        self._told: deque[tuple[float, int]] = deque()
        self._moved_at = 0.0

    def told(self, done_bytes: int, now_s: float) -> None:
        """`done_bytes` so far; may go down when something is sent again."""
        if not self._told or done_bytes != self._told[-1][1]:
            self._moved_at = now_s
        self._told.append((now_s, done_bytes))
        while len(self._told) > 2 and self._told[1][0] <= now_s - WINDOW_S:
            self._told.popleft()

    def seconds_left(self, total_bytes: int, now_s: float) -> float | None:
        """At the speed of the last ten seconds; None before two have passed, and while nothing moves."""
        speed = self.bytes_per_s(now_s)
        return None if speed is None else (total_bytes - self._told[-1][1]) / speed

    def bytes_per_s(self, now_s: float) -> float | None:
        """Of the last ten seconds; None where `seconds_left` is."""
        if not self._told or now_s - self._moved_at > STALLED_S:
            return None
        (since_s, before), (_, done) = self._told[0], self._told[-1]
        if now_s - since_s < ENOUGH_S or done <= before:
            return None
        return (done - before) / (now_s - since_s)
