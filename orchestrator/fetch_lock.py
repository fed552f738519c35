"""One process at a time brings files of a run home: two would append to the same part of a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.operating_system import take_lock_of_process

LOCK_POLL_S = 0.1


@contextmanager
def fetching_alone(file: Path, while_waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Blocks until no other process holds `file`; look again at what is missing once inside.

    `while_waiting` is called ten times a second and ends the waiting by raising. A process that dies lets go. The lock
    is the process's, not the thread's: its own threads keep out of each other's way by ending before the next begins.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as handle:
        while True:
            if take_lock_of_process(handle):
                break
            while_waiting()
            time.sleep(LOCK_POLL_S)
        yield
