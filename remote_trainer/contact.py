"""What a call of the laptop means to the machine's lease. Standard library only, Python 3.9 or later.

Each of these does nothing on a machine without a guard, but for the note of what is saved.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from . import only_copy, wire
from .deadline import HERE, Clocks, boot_clock
from .lease import GUARD_FOLDER, GuardFiles, memory_folder

CONTACT_EVERY_S = 15.0
GUARD_TIMEOUT_S = 15.0


def contact(folder: Path, clocks: Clocks = HERE, *, renew: bool = True) -> None:
    """A laptop shows itself, by a call about `folder`: the machine's lease is renewed, if it has one.

    Without `renew` it is only noted: a connection may look open for a quarter of an hour after its laptop is gone.
    """
    guard = GuardFiles.above(folder)
    if guard is not None:
        now_s = clocks.boot_clock()
        guard.note_contact(now_s)
        if renew:
            guard.renew(now_s)


class Renewing:
    """Contact for as long as bytes move: a base that travels for an hour keeps its machine."""

    def __init__(self, folder: Path, clocks: Clocks = HERE) -> None:
        self._folder, self._clocks, self._noted_at = folder, clocks, clocks.monotonic()

    def __call__(self) -> None:
        if self._clocks.monotonic() - self._noted_at >= CONTACT_EVERY_S:
            self._noted_at = self._clocks.monotonic()
            contact(self._folder, self._clocks)


def saved(run_folder: Path, manifests: Sequence[str]) -> None:
    """The caller holds these committed folders, every file verified: they no longer keep the machine's disk.

    Also true of a driver that was overtaken, so it carries no epoch. Twice is safe; unknown hashes are kept, too.
    """
    if not run_folder.exists():
        return
    only_copy.note_saved(run_folder, manifests)
    guard = GuardFiles.above(run_folder)
    if guard is not None:
        only_copy.review(guard)


def start_guard(workdir: Path, program: str) -> wire.GuardStatus:
    """Starts the guard on a machine whose boot plan had none, and waits for its first look. One that lives stays.

    Raises TimeoutError when it does not come up.
    """
    guard = GuardFiles.above(workdir) or GuardFiles(workdir / GUARD_FOLDER, memory_folder())
    if not guard.is_alive(boot_clock()):
        guard.start(program)
    deadline = time.monotonic() + GUARD_TIMEOUT_S
    while not guard.is_alive(boot_clock()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the guard did not come up within {GUARD_TIMEOUT_S:.0f} s")
        time.sleep(0.05)
    only_copy.review(guard)
    return guard.status(boot_clock())
