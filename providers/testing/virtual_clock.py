"""Time that passes only when somebody waits: the clock of every simulation.

There is one thread. Whoever sleeps runs, in order, all that falls due meanwhile; two simulations that make the same
calls see the same times. The class has the methods of the orchestrator's clock and knows nothing of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

START = 1_790_000_000.0


@dataclass(order=True)
class Appointment:
    """Something that will happen, unless it is canceled first."""

    due_s: float
    order: int
    action: Callable[[], None] | None = field(compare=False)

    def cancel(self) -> None:
        """Twice is safe, and so is after the fact."""
        self.action = None


class VirtualClock:
    """Monotonic seconds from 0; the wall clock shows `START` more."""

    def __init__(self) -> None:
        self._elapsed_s = 0.0
        self._order = 0
        self._appointments: list[Appointment] = []
        self._acting = False
        self.after_each: Callable[[], None] = lambda: None
        """Called after every action, for whoever checks the world between any two events."""

    def now(self) -> float:
        """Unix seconds of the simulated world's true time."""
        return START + self._elapsed_s

    def monotonic(self) -> float:
        return self._elapsed_s

    def sleep(self, seconds: float) -> None:
        """Lets time pass. What an action raises comes out here, at the time it was due.

        Raises RuntimeError inside an action: an action is an instant.
        """
        until = self._elapsed_s + max(0.0, seconds)
        if self._acting:
            raise RuntimeError("an action of the clock cannot wait; make another appointment")
        while self._appointments and self._appointments[0].due_s <= until:
            self._act(heapq.heappop(self._appointments))
        self._elapsed_s = max(until, self._elapsed_s)

    def at(self, due_s: float, action: Callable[[], None]) -> Appointment:
        """`action` at that monotonic time, or next when that is past; equal times keep the order of the calls."""
        self._order += 1
        appointment = Appointment(max(due_s, self._elapsed_s), self._order, action)
        heapq.heappush(self._appointments, appointment)
        return appointment

    def after(self, delay_s: float, action: Callable[[], None]) -> Appointment:
        return self.at(self._elapsed_s + delay_s, action)

    def next_due_s(self) -> float | None:
        """When something happens next; None when nothing ever will."""
        while self._appointments and self._appointments[0].action is None:
            heapq.heappop(self._appointments)
        return self._appointments[0].due_s if self._appointments else None

    def _act(self, appointment: Appointment) -> None:
        if appointment.action is None:
            return
        self._elapsed_s = max(self._elapsed_s, appointment.due_s)
        self._acting = True
        try:
            appointment.action()
        finally:
            self._acting = False
        self.after_each()


class SkewedClock:
    """What a machine with a wrong wall clock reads: its durations are right, its date is not."""

    def __init__(self, true: VirtualClock, ahead_s: float = 0.0) -> None:
        self._true = true
        self.ahead_s = ahead_s
        """May change: somebody sets the date."""

    def now(self) -> float:
        return self._true.now() + self.ahead_s

    def monotonic(self) -> float:
        return self._true.monotonic()

    def sleep(self, seconds: float) -> None:
        self._true.sleep(seconds)
