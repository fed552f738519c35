"""Which of a machine's committed folders lie nowhere else, and what that tells the guard. Standard library only, 3.9.

What the laptop or the store holds verified is noted beside the run, by manifest hash: facts, which never turn untrue
here. The guard's word is about the machine, so it follows from all runs on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from . import oversight, wire
from . import run_folder as folders
from .lease import GuardFiles

SAVED_FILE = "saved.json"


def note_saved(run_folder: Path, manifests: Iterable[str]) -> None:
    """These manifests are verified elsewhere. Twice is safe, two at once too. Raises OSError on a full disk."""
    lock = folders.acquire(run_folder / "saved.lock", wait_s=10)
    try:
        known = saved_manifests(run_folder)
        if not known.issuperset(manifests):
            everything = sorted(known.union(manifests))
            folders.write_atomically(run_folder / SAVED_FILE, json.dumps({"manifests": everything}).encode())
    finally:
        if lock is not None:
            lock.close()


def saved_manifests(run_folder: Path) -> frozenset[str]:
    content = folders.read_json(run_folder / SAVED_FILE) or {}
    return frozenset(str(sha256) for sha256 in content.get("manifests", ()))


def others_at_work(guard: GuardFiles, run_folder: Path) -> bool:
    """Whether a supervisor of another run lives on the machine: it is not this run's to end then."""
    others = (run for run in (guard.workdir / "runs").glob("[!.]*") if run != run_folder)
    return any(folders.is_held(run / folders.SUPERVISOR_LOCK) for run in others)


def review(guard: GuardFiles) -> wire.LapseAction:
    """Looks at every run on the machine, tells the guard what to do at the lease's end, and returns that.

    Raises OSError when it cannot be written down.
    """
    with guard.deciding():
        kept: list[wire.CommittedFolder] = []
        saved: set[str] = set()
        for run in sorted((guard.workdir / "runs").glob("[!.]*")):
            if _makes_pictures(run):
                continue  # their seeds make them again for cents, and a stopped disk bills for days
            found = oversight.worth_keeping(
                folders.committed_checkpoints(run), folders.committed(run, wire.OUTPUT_FOLDER)
            )
            if found is not None:
                kept.append(found)
                saved |= saved_manifests(run)
        action = oversight.on_lapse(kept, saved)
        guard.set_on_lapse(action)
        return action


def _makes_pictures(run: Path) -> bool:
    return (folders.read_json(run / wire.JOB_FILE) or {}).get("pictures") is not None
