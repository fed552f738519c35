"""How long the run may still last, counted across suspends and supervisor restarts. Standard library only, 3.9.

The laptop sends remaining seconds, never a wall time: clocks of two machines agree on nothing. Elapsed time is
counted on a clock that goes on while the machine sleeps and is persisted, so that a restarted supervisor does not
start a new allowance.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from . import run_folder as folders

ELAPSED_FILE = "elapsed.json"


def boot_clock() -> float:
    """Seconds since boot, suspend included where the system offers that clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.clock_gettime(clock) if clock is not None else time.monotonic()


def boot_id() -> str:
    """Differs after every boot of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class Clocks:
    """A machine's clocks: whoever simulates one hands in others."""

    boot_clock: Callable[[], float] = boot_clock
    boot_id: Callable[[], str] = boot_id
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class Elapsed:
    """How much of a machine's allowance is used, and when (on which boot's clock) that was written down."""

    machine: str
    elapsed_s: float
    clock_s: float
    boot: str

    def at(self, clock_s: float, boot: str) -> Elapsed:
        """The same count now. Time between two boots of the machine cannot be seen and is not counted."""
        same_boot = boot == self.boot and clock_s >= self.clock_s
        passed = clock_s - self.clock_s if same_boot else 0.0
        return Elapsed(self.machine, self.elapsed_s + passed, clock_s, boot)


HERE = Clocks()


class Allowance:
    """The persisted count of the run's time on one machine, and the seconds it has left."""

    def __init__(
        self,
        run_folder: Path,
        machine: str,
        deadline_s: Optional[float],
        limit_s: Optional[float] = None,
        clocks: Clocks = HERE,
    ) -> None:
        self.clocks = clocks
        self._path = run_folder / ELAPSED_FILE
        self._deadline_s, self._limit_s = deadline_s, limit_s
        known = _recorded(self._path)
        if known is None or known.machine != machine:
            known = Elapsed(machine, 0.0, clocks.boot_clock(), clocks.boot_id())
        self._elapsed = self._now(known)

    def tick(self) -> float:
        """Counts up to now, writes it down and returns the elapsed seconds. A full disk is tried again next time."""
        self._elapsed = self._now(self._elapsed)
        with folders.full_disk_forgiven():
            folders.write_atomically(self._path, json.dumps(self._elapsed.__dict__).encode())
        return self._elapsed.elapsed_s

    @property
    def left_s(self) -> float:
        """Until the run must have ended. May be negative; infinite without a deadline."""
        return self._left_of(self._deadline_s)

    @property
    def limit_left_s(self) -> float:
        """Until the machine must have ended. May be negative; infinite on a machine that nobody pays for."""
        return self._left_of(self._limit_s)

    def _left_of(self, total_s: Optional[float]) -> float:
        if total_s is None:
            return float("inf")
        return total_s - self._now(self._elapsed).elapsed_s

    def _now(self, elapsed: Elapsed) -> Elapsed:
        return elapsed.at(self.clocks.boot_clock(), self.clocks.boot_id())


def _recorded(path: Path) -> Optional[Elapsed]:
    content = folders.read_json(path)
    if content is None:
        return None
    return Elapsed(
        str(content["machine"]), float(content["elapsed_s"]), float(content["clock_s"]), str(content["boot"])
    )
