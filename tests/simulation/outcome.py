"""What becomes of a schedule, and of the drivers in it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.simulation.invariants import Violation
from tests.simulation.kinds import Kind


class DriverKilled(BaseException):
    """SIGKILL, as far as one thread can have it: it comes out of a seam, and the driver never passes another."""


@dataclass(frozen=True)
class Outcome:
    """What became of a schedule."""

    seed: int
    violation: Violation | None
    fired: tuple[Kind, ...]
    """In the order in which they took effect; of what lasts, the beginning."""
    drivers: int
    virtual_s: float
    billed_usd: float
    passages: frozenset[str]
    states: tuple[str, ...]
    """The ledger's moves."""
    trace: tuple[str, ...]
    processor_s: float = 0.0
    """What it took to play, of one core."""

    def without_trace(self) -> Outcome:
        """Small enough to be sent between processes by the thousand."""
        return replace(self, trace=())


@dataclass
class Driver:
    """One process."""

    number: int
    epoch: int
    gives_up_s: float
    """When a person would no longer wait for it."""
    dead: bool = False
    dies_after: int | None = None
    """Passages until it is killed; None: not by this."""
    spares_folder: bool = False
    """It is killed before it removes the run's folder from a host."""
