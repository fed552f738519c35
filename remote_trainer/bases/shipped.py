"""Builtin bases whose weights lie beside this code: diffusers folders below `weights/`, each with its pinned hash.

The laptop leaves them out of the code that it sends to a machine. Where a run needs one, it travels like any other
base from the laptop, and the trainer is told a path; a name arrives here only where the whole package is installed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from remote_trainer.errors import TrainingFailed

NAMES = ("toybox",)
WEIGHTS = Path(__file__).with_name("weights")
"""A folder for each name, and `NAME.sha256`, its `content_sha256`."""


def folder_of(name: str) -> Path:
    """The diffusers folder of a base in `NAMES`, hashed and compared: some 20 ms.

    Raises TrainingFailed("base-not-found") where the weights are not there, or are not those that were released.
    """
    folder, pin = WEIGHTS / name, WEIGHTS / f"{name}.sha256"
    if not (folder / "model_index.json").is_file():
        hint = "give the path of a copy, or run it where cloudbooth itself is installed"
        raise TrainingFailed("base-not-found", f"the weights of builtin:{name} are not on this machine", hint)
    if not pin.is_file() or content_sha256(folder) != pin.read_text().strip():
        raise TrainingFailed("base-not-found", f"{folder} is not what was released", "install cloudbooth anew")
    return folder


def content_sha256(folder: Path) -> str:
    """Of the lines `path<TAB>sha256` of all its files by path: the laptop computes the same."""
    lines = [
        f"{path.relative_to(folder).as_posix()}\t{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
