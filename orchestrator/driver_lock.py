"""One driver for each run of this machine: a lock that the kernel frees when its process dies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import RunConflict
from orchestrator.operating_system import is_locked, take_lock

LOCK_PATIENCE_S = 1.0


@contextmanager
def driver_lock(file: Path, run: str) -> Iterator[None]:
    """Held while this process drives. Raises RunConflict when another process does.

    Tries for a second: a mere look by `is_driven` holds the lock for an instant.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + LOCK_PATIENCE_S
    with file.open("a+") as handle:
        while True:
            if take_lock(handle):
                break
            if time.monotonic() >= until:
                raise RunConflict(f"another process drives run `{run}`", f"watch it with `cloudbooth attach {run}`")
            time.sleep(0.05)
        yield


def is_driven(file: Path) -> bool:
    """Whether a living process of this machine drives the run."""
    try:
        with file.open() as handle:
            return is_locked(handle)
    except FileNotFoundError:
        return False
