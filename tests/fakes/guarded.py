"""A rented machine's work folder with the guard's files in it, on this machine's disk."""

from __future__ import annotations

from pathlib import Path

from remote_trainer import wire
from remote_trainer.commit import commit_folder, preparing
from remote_trainer.lease import GuardFiles


def guard_files(root: Path) -> GuardFiles:
    """As a guard leaves them that has just begun."""
    state, memory = root / "work" / "guard", root / "memory"
    for folder in (state, memory):
        folder.mkdir(parents=True, exist_ok=True)
    (state / "memory").write_text(f"{memory}\n")
    return GuardFiles(state, memory)


def run_on(root: Path, name: str = "dog") -> Path:
    folder = root / "work" / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def committed(run_folder: Path, step: int, folder: str | None = None) -> wire.CommittedFolder:
    """A checkpoint, or whatever else `folder` names."""
    path = folder or wire.checkpoint_folder(step)
    with preparing(run_folder / path) as prepared:
        (prepared / "weights").write_text(f"{run_folder.name} {path}")
        manifest = commit_folder(prepared, run_folder / path, step)
    return wire.CommittedFolder(step, path, manifest.sha256)
