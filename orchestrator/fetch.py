"""Brings files of a run home: resumable, verified, under their final name only when they are right.

A file grows as `NAME.part`, whose length is where a later attempt goes on; it is renamed when its sha256 agrees. A
folder is assembled beside its place and renamed last, so that whoever sees the folder sees all of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator.checksum import sha256_of
from orchestrator.host import HostError
from orchestrator.remote_run import RemoteRun
from providers.errors import CloudboothError
from remote_trainer import wire

OnBytes = Callable[[int], None]
"""Called with the number of bytes that came (negative when a damaged part is thrown away)."""


class DamagedTransfer(HostError):
    """A file arrived complete and wrong, twice."""


def fetch_manifest(remote: RemoteRun, folder: str, expected_sha256: str) -> wire.Manifest:
    """The manifest of a folder on the host. Raises DamagedTransfer when it is not the one that was announced."""
    with remote.read([(f"{folder}/{wire.MANIFEST_NAME}", 0)]) as chunks:
        raw = b"".join(chunks)
    if hashlib.sha256(raw).hexdigest() != expected_sha256:
        raise DamagedTransfer(
            f"the manifest of {folder} is not the one the trainer announced", "try `cloudbooth pull RUN`"
        )
    return wire.Manifest.from_bytes(raw)


def fetch_folder(remote: RemoteRun, folder: str, manifest: wire.Manifest, target: Path, on_bytes: OnBytes) -> None:
    """Makes `target` an exact copy of a committed folder. Twice is safe; an interrupted call is continued.

    Raises HostError of the connection, DamagedTransfer, and CloudboothError when the laptop's disk is full or
    something else lies at `target`: what a user has put there is never removed.
    """
    if holds(target, manifest):
        return
    if target.exists():
        raise CloudboothError(
            f"{target} holds something else than {folder} of the run",
            f"mv '{target}' '{target}-before' && cloudbooth attach RUN",
        )
    partial = target.with_name(f".{target.name}.part")
    with disk_full_explained(target):
        partial.mkdir(parents=True, exist_ok=True)
        fetch_files(remote, folder, manifest.files, partial, on_bytes)
        (partial / wire.MANIFEST_NAME).write_bytes(manifest.to_bytes())
        partial.rename(target)


def fetch_files(
    remote: RemoteRun, folder: str, entries: Sequence[wire.FileEntry], target: Path, on_bytes: OnBytes
) -> None:
    """Fetches what is not in `target` yet, in one stream; a damaged file is fetched once more from its start."""
    for round_ in range(2):
        wanted = [entry for entry in entries if not _matches(target / entry.path, entry)]
        if not wanted:
            return
        if round_ == 1:
            for entry in wanted:
                _discard(_part(target / entry.path), on_bytes)
        _fetch_once(remote, folder, wanted, target, on_bytes)
    wrong = [entry.path for entry in entries if not _matches(target / entry.path, entry)]
    if wrong:
        raise DamagedTransfer(
            f"{wrong[0]} arrived damaged twice", "check the disks of both sides, then `cloudbooth pull RUN`"
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

    def __init__(
        self, path: Path, then: str = "`cloudbooth attach RUN` continues; nothing is lost on the host"
    ) -> None:
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


def _fetch_once(
    remote: RemoteRun, folder: str, wanted: Sequence[wire.FileEntry], target: Path, on_bytes: OnBytes
) -> None:
    offsets: list[int] = []
    for entry in wanted:
        part = _part(target / entry.path)
        part.parent.mkdir(parents=True, exist_ok=True)
        if part.exists() and part.stat().st_size > entry.bytes:
            part.unlink()
        offsets.append(part.stat().st_size if part.exists() else 0)
    requests = [(f"{folder}/{entry.path}", offset) for entry, offset in zip(wanted, offsets, strict=True)]
    with remote.read(requests) as chunks:
        stream = _Stream(chunks)
        for entry, offset in zip(wanted, offsets, strict=True):
            path = target / entry.path
            with _part(path).open("ab") as handle:
                for piece in stream.take(entry.bytes - offset):
                    handle.write(piece)
                    on_bytes(len(piece))
                handle.flush()
                os.fsync(handle.fileno())
            if sha256_of(_part(path)) == entry.sha256:
                _part(path).rename(path)


class _Stream:
    """Cuts concatenated files out of a stream of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def take(self, count: int) -> Iterator[bytes]:
        """Pieces that add up to `count` bytes; fewer when the stream ends early."""
        while count > 0:
            if not self._rest:
                self._rest = next(self._chunks, b"")
                if not self._rest:
                    return
            piece, self._rest = self._rest[:count], self._rest[count:]
            count -= len(piece)
            yield piece


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _matches(path: Path, entry: wire.FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes and sha256_of(path) == entry.sha256


def _discard(part: Path, on_bytes: OnBytes) -> None:
    if part.exists():
        on_bytes(-part.stat().st_size)
        part.unlink()
