"""Files of a run on their way home: in chunks, over several streams, into partials that only a right hash names.

The partials are the whole memory of a transfer. What lies in one counts when its hash is that of the same range on
the host: a process killed anywhere, a disk that forgot its last seconds and a partial of an older file are one case.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.host import HostError
from orchestrator.remote_run import OnBytes, RemoteRun
from orchestrator.transfer.chunks import (
    CHUNK_BYTES,
    Chunk,
    Shares,
    chunks_of,
    dealt_out,
    digests_here,
    ranges_of,
    zeros_sha256,
)
from orchestrator.transfer.crew import planned_streams, work_together
from orchestrator.transfer.hashing import Following
from remote_trainer import wire

RUN_CHUNKS = 256
"""Asked for at once: a request is one argument of a command line, and Linux allows 128 KiB for one."""


@dataclass
class Arriving:
    """Files that are to lie below `target`, from below `folder` of the run."""

    remote: RemoteRun
    folder: str
    target: Path
    chunk_bytes: int = CHUNK_BYTES
    _right: set[str] = field(default_factory=set)
    """Paths of the files whose partials are complete and right."""

    def missing(self, entries: Sequence[wire.FileEntry]) -> list[Chunk]:
        """What the partials lack or have wrong. Raises HostError of the connection."""
        return [chunk for entry in entries for chunk in self._missing_of(entry)]

    def bring(self, chunks: Sequence[Chunk], on_bytes: OnBytes) -> None:
        """Blocks until the chunks are in the partials, over as many streams as pay.

        Raises HostError as the connections do and what `on_bytes` raises; what has arrived stays.
        """
        for folder in {partial(self.target / chunk.entry.path).parent for chunk in chunks}:
            folder.mkdir(parents=True, exist_ok=True)
        streams = planned_streams(self.remote.host, sum(chunk.length for chunk in chunks))
        shares = Shares(dealt_out(chunks, streams), streams)
        with Following(chunks, lambda entry: partial(self.target / entry.path), self._right.add) as following:
            worker = _Receiver(self, shares, following)
            work_together(self.remote, worker, streams, lambda: shares.left_bytes, on_bytes)

    def name(self, entries: Sequence[wire.FileEntry]) -> list[wire.FileEntry]:
        """Gives the files that are right their names, once their bytes are on the disk. Returns the others."""
        named = [entry for entry in entries if entry.path in self._right]
        for entry in named:
            with partial(self.target / entry.path).open("rb") as handle:
                os.fsync(handle.fileno())
        for entry in named:
            partial(self.target / entry.path).rename(self.target / entry.path)
        return [entry for entry in entries if entry.path not in self._right]

    def _missing_of(self, entry: wire.FileEntry) -> list[Chunk]:
        path = partial(self.target / entry.path)
        chunks = chunks_of(entry, self.chunk_bytes)
        if not path.exists():
            return chunks
        if path.stat().st_size > entry.bytes:
            os.truncate(path, entry.bytes)
        whole, here = digests_here(path, chunks)
        if whole == entry.sha256:
            self._right.add(entry.path)
            return []
        if len(chunks) == 1:
            return chunks
        doubtful = [
            chunk
            for chunk, sha256 in zip(chunks, here, strict=True)
            if sha256 is not None and sha256 != zeros_sha256(chunk.length)
        ]
        there = self._digests_there(doubtful)
        right = {chunk.offset for chunk in doubtful if there[chunk.offset] == here[chunk.offset // self.chunk_bytes]}
        return [chunk for chunk in chunks if chunk.offset not in right]

    def _digests_there(self, chunks: Sequence[Chunk]) -> dict[int, str | None]:
        """By offset."""
        found: dict[int, str | None] = {}
        for first in range(0, len(chunks), RUN_CHUNKS):
            run = chunks[first : first + RUN_CHUNKS]
            root = os.path.normpath(f"{self.remote.folder}/{self.folder}")
            digests = self.remote.digests(root, ranges_of(run), self.chunk_bytes)
            found.update(zip((chunk.offset for chunk in run), digests, strict=True))
        return found


@dataclass
class _Receiver:
    """The work of every stream: ask for a run of chunks, and write each where it belongs."""

    arriving: Arriving
    shares: Shares
    following: Following

    def __call__(self, remote: RemoteRun, stream: int, on_bytes: OnBytes) -> None:
        try:
            while run := self.shares.run_for(stream, RUN_CHUNKS):
                with remote.read_ranges(self.arriving.folder, ranges_of(run)) as pieces:
                    incoming = _Incoming(pieces)
                    for chunk in run:
                        if not self.shares.claim(stream, chunk):
                            break  # another stream that had nothing to do has taken the rest
                        self._receive(remote, chunk, stream, incoming, on_bytes)
        finally:
            self.shares.leave(stream)

    def _receive(self, remote: RemoteRun, chunk: Chunk, stream: int, incoming: _Incoming, on_bytes: OnBytes) -> None:
        path = partial(self.arriving.target / chunk.entry.path)
        arrived = 0
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666), "wb", buffering=0) as handle:
                handle.seek(chunk.offset)
                for piece in incoming.take(chunk.length):
                    _write_all(handle.fileno(), piece)
                    arrived += len(piece)
                    on_bytes(len(piece))
            if arrived != chunk.length:
                raise HostError(f"{remote.host.label} sent {chunk.entry.path} {chunk.length - arrived} bytes short")
        except BaseException:
            self.shares.give_back(stream)
            if arrived:
                on_bytes(-arrived)
            raise
        self.following.arrived(chunk)


class _Incoming:
    """Cuts chunks out of a stream of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def take(self, count: int) -> Iterator[memoryview]:
        """Pieces that add up to `count` bytes; fewer when the stream ends early."""
        while count > 0:
            if not self._rest:
                self._rest = memoryview(next(self._pieces, b""))
                if not self._rest:
                    return
            piece, self._rest = self._rest[:count], self._rest[count:]
            count -= len(piece)
            yield piece


def partial(path: Path) -> Path:
    """Where a file grows on the laptop."""
    return path.with_name(f"{path.name}.part")


def _write_all(descriptor: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece) :]
