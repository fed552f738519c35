"""Brings files of a run home: resumable, verified, under their final name only when they are right.

A file grows as `NAME.part` and is renamed when its sha256 agrees; `orchestrator.transfer.receiving` moves the bytes. A
folder is assembled beside its place and renamed last, so that whoever sees the folder sees all of it.
"""

from __future__ import annotations

import errno
import hashlib
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from orchestrator.checksum import sha256_of
from orchestrator.host import HostError
from orchestrator.remote_run import OnBytes, RemoteRun
from orchestrator.transfer.chunks import CHUNK_BYTES
from orchestrator.transfer.receiving import Arriving
from orchestrator.understanding import understood
from orchestrator.whole_file import sync_folder, write_atomically
from providers.errors import CloudboothError
from remote_trainer import wire


class DamagedTransfer(HostError):
    """A file arrived complete and wrong, twice."""


def fetch_manifest(remote: RemoteRun, folder: str, expected_sha256: str) -> wire.Manifest:
    """The manifest of a folder on the host. Raises DamagedTransfer when it is not the one that was announced."""
    with remote.read(f"{folder}/{wire.MANIFEST_NAME}") as chunks:
        raw = b"".join(chunks)
    if hashlib.sha256(raw).hexdigest() != expected_sha256:
        raise DamagedTransfer(
            f"the manifest of {folder} is not the one the trainer announced",
            f"try `cloudbooth pull {remote.run}`",
        )
    with understood(f"the manifest of {folder}"):
        return wire.Manifest.from_bytes(raw)


def fetch_folder(
    remote: RemoteRun,
    folder: str,
    manifest: wire.Manifest,
    target: Path,
    on_bytes: OnBytes,
    on_found: OnBytes = lambda _count: None,
    chunk_bytes: int = CHUNK_BYTES,
) -> None:
    """Makes `target` an exact copy of a committed folder, on the disk when this returns: the machine with the only
    other copy may be given back the next second. Twice is safe, at once is not; an interrupted call is continued.

    Raises HostError of the connection, DamagedTransfer, and CloudboothError when the laptop's disk is full or
    something else lies at `target`: what a user has put there is never removed.
    """
    if holds(target, manifest):
        return
    if target.exists():
        raise CloudboothError(
            f"{target} holds something else than {folder} of the run",
            f"mv {shlex.quote(str(target))} {shlex.quote(f'{target}-before')} && cloudbooth attach {remote.run}",
        )
    partial = partial_folder(target)
    with disk_full_explained(target, continues(remote.run)):
        partial.mkdir(parents=True, exist_ok=True)
        fetch_files(remote, folder, manifest.files, partial, on_bytes, on_found, chunk_bytes)
        write_atomically(partial / wire.MANIFEST_NAME, manifest.to_bytes())
        partial.rename(target)
        sync_folder(target.parent)


def partial_folder(target: Path) -> Path:
    """Where a folder is assembled."""
    return target.with_name(f".{target.name}.part")


def continues(run: str) -> str:
    """What a hint says once the obstacle on the laptop is out of the way."""
    return f"`cloudbooth attach {run}` continues; nothing is lost on the host"


def fetch_files(
    remote: RemoteRun,
    folder: str,
    entries: Sequence[wire.FileEntry],
    target: Path,
    on_bytes: OnBytes,
    on_found: OnBytes = lambda _count: None,
    chunk_bytes: int = CHUNK_BYTES,
) -> None:
    """Fetches what is not in `target` yet; of a file that arrived damaged, the damaged chunks once more.

    `on_found` counts what an earlier call has left. Raises CloudboothError, before anything is fetched, when the disk
    has no room for the rest.
    """
    arriving = Arriving(remote, folder, target, chunk_bytes)
    wrong = [entry for entry in entries if not _matches(target / entry.path, entry)]
    on_found(sum(entry.bytes for entry in entries) - sum(entry.bytes for entry in wrong))
    for round_ in range(2):
        chunks = arriving.missing(wrong)
        count = sum(chunk.length for chunk in chunks)
        if round_ == 0:
            on_found(sum(entry.bytes for entry in wrong) - count)
            _require_room(target, count)
        else:
            on_bytes(-count)
        arriving.bring(chunks, on_bytes)
        wrong = arriving.name(wrong)
        if not wrong:
            break
    for inside in {inside for entry in entries for inside in _between(target, target / entry.path)}:
        sync_folder(inside)
    if wrong:
        raise DamagedTransfer(
            f"{wrong[0].path} arrived damaged twice",
            f"check the disks of both sides, then `cloudbooth pull {remote.run}`",
        )


def holds(folder: Path, manifest: wire.Manifest) -> bool:
    """Whether the folder has this very manifest and every file of it in full."""
    try:
        committed = (folder / wire.MANIFEST_NAME).read_bytes() == manifest.to_bytes()
    except OSError:
        return False
    return committed and all(_matches(folder / entry.path, entry) for entry in manifest.files)


class disk_full_explained:  # noqa: N801  # reads as a clause: `with disk_full_explained(path):`
    """Turns ENOSPC and refused writes into an error that names the folder."""

    def __init__(self, path: Path, then: str) -> None:
        self._path, self._then = path, then

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CloudboothError(
                f"this machine's disk is full: {self._path.parent}",
                f"free some space, then {self._then}",
            ) from error
        if isinstance(error, PermissionError):
            raise CloudboothError(
                f"{error.filename or self._path} cannot be written", f"make it writable, then {self._then}"
            ) from error


def _require_room(target: Path, needed_bytes: int) -> None:
    standing = next(folder for folder in (target, *target.parents) if folder.exists())
    free_bytes = shutil.disk_usage(standing).free
    if needed_bytes > free_bytes:
        raise CloudboothError(
            f"this machine's disk is full: {needed_bytes / 1e9:.2f} GB are to come, "
            f"{free_bytes / 1e9:.2f} GB are free in {target.parent}",
            "free some space, then the same command again",
        )


def _between(root: Path, path: Path) -> list[Path]:
    """The folders from `root` down to the file: those whose names must be durable for the file to be."""
    return [root, *(folder for folder in path.parents if root in folder.parents)]


def _matches(path: Path, entry: wire.FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes and sha256_of(path) == entry.sha256
