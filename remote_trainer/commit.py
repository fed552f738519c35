"""Folders that appear complete or not at all, and that can be told from torn ones afterwards.

Write everything into what `preparing(folder)` yields, then `commit_folder`: files are flushed to disk, the manifest
is written last, and one rename makes the folder visible under its name. A crash before the rename leaves a hidden
folder that nobody reads; a disk that lies about flushing is found out by the hashes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .wire import MANIFEST_NAME, FileEntry, Manifest, WireError

_READ_BYTES = 1 << 20


@contextmanager
def preparing(folder: Path) -> Iterator[Path]:
    """A fresh, empty, hidden folder beside `folder`, in which its content is made.

    Removed again when the body raises: on a full disk, half a checkpoint must not stay.
    """
    prepared = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(prepared, ignore_errors=True)
    prepared.mkdir(parents=True)
    try:
        yield prepared
    except BaseException:
        shutil.rmtree(prepared, ignore_errors=True)
        raise


def commit_folder(prepared: Path, folder: Path, step: int) -> Manifest:
    """Moves what `preparing(folder)` yielded and the caller filled to `folder`, durably.

    Replaces a folder of that name; between its removal and the rename neither exists under the name.
    """
    files = tuple(
        file_entry(path, prepared)
        for path in sorted(prepared.rglob("*"))
        if path.is_file() and path != prepared / MANIFEST_NAME
    )
    for entry in files:
        _flush(prepared / entry.path)
    manifest = Manifest(step, files)
    with open(prepared / MANIFEST_NAME, "wb") as handle:
        handle.write(manifest.to_bytes())
        handle.flush()
        os.fsync(handle.fileno())
    for inner in [path for path in prepared.rglob("*") if path.is_dir()]:
        _flush(inner)
    _flush(prepared)
    remove_committed(folder)
    os.rename(prepared, folder)
    _flush(folder.parent)
    return manifest


def read_committed(folder: Path) -> Manifest | None:
    """The manifest when every file it names is there with its size and sha256, else None. Reads every byte."""
    try:
        manifest = Manifest.from_bytes((folder / MANIFEST_NAME).read_bytes())
        if all(file_entry(folder / entry.path, folder) == entry for entry in manifest.files):
            return manifest
    except (OSError, WireError):
        pass
    return None


def remove_committed(folder: Path) -> None:
    """Removes the commit mark first, so that a half-removed folder is never taken for a whole one. Twice is safe."""
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def file_entry(path: Path, root: Path) -> FileEntry:
    """The file's path relative to `root`, its size and its hash."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(_READ_BYTES):
            digest.update(chunk)
        size = handle.tell()
    return FileEntry(path.relative_to(root).as_posix(), size, digest.hexdigest())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
