"""Files on their way to a host: one tar stream for each connection, of small files whole and of large ones in chunks.

The host names a small file when its hash is right. A large one grows in a partial there, whose chunks count when their
hashes are those of the same ranges here; the host names it when the hash of the whole is right. One whose chunks all
come over one stream is hashed there while it arrives; others are read once more at the end.
"""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.checksum import sha256_of
from orchestrator.host import HostError
from orchestrator.remote_run import OnBytes, RemoteRun
from orchestrator.transfer.chunks import (
    CHUNK_BYTES,
    Chunk,
    Queue,
    Range,
    chunks_of,
    digests_here,
    zeros_sha256,
)
from orchestrator.transfer.crew import planned_streams, work_together
from remote_trainer import wire

PIECE_BYTES = 1 << 20
ROUNDS = 4
"""What a broken stream had taken is looked for on the host and sent again, so often at most."""


def upload(
    remote: RemoteRun,
    root: str,
    source: Path,
    entries: Sequence[wire.FileEntry],
    on_bytes: OnBytes,
    on_found: OnBytes = lambda _count: None,
    chunk_bytes: int = CHUNK_BYTES,
) -> None:
    """Makes files that lie below `source` on the laptop lie below `root` on the host; an interrupted call is continued.

    `on_bytes` counts what the connections took, ahead of the wire by what they buffer; `on_found` what an earlier call
    has left there. What they raise is raised. Raises HostError of the connection, for a host without room (before
    anything is sent), and for a file that is not what its entry says.
    """
    leaving = _Leaving(remote, root, source, chunk_bytes)
    wanted = list(entries)
    chunks = leaving.missing(wanted)
    on_found(sum(entry.bytes for entry in wanted) - sum(chunk.length for chunk in chunks))
    for _ in range(ROUNDS):
        broken = leaving.send(chunks, on_bytes)
        wanted = leaving.unfinished(wanted, sure=not broken)
        if not wanted:
            return
        chunks = leaving.missing(wanted)
        if not chunks:
            break
        on_bytes(-sum(chunk.length for chunk in chunks))
    path = source / wanted[0].path
    if sha256_of(path) != wanted[0].sha256:
        raise HostError(f"{path} changed while it was being sent", "start again")
    raise HostError(f"{wanted[0].path} arrives damaged at {remote.host.label}", "check the disks of both sides")


@dataclass
class _Leaving:
    remote: RemoteRun
    root: str
    source: Path
    chunk_bytes: int
    finished: set[str] = field(default_factory=set)
    """Paths of large files that the host has found right and named while they arrived."""

    def is_small(self, entry: wire.FileEntry) -> bool:
        return entry.bytes <= self.chunk_bytes

    def missing(self, entries: Sequence[wire.FileEntry]) -> list[Chunk]:
        """What the host lacks of files that it could not name yet."""
        chunks: list[Chunk] = []
        for entry in entries:
            chunks += chunks_of(entry, self.chunk_bytes) if self.is_small(entry) else self._missing_of(entry)
        return chunks

    def send(self, chunks: Sequence[Chunk], on_bytes: OnBytes) -> bool:
        """True when a stream broke, or a file arrived wrong: what arrived has to be asked then."""
        sender = _Sender(self, Queue(chunks))
        streams = planned_streams(self.remote.host, sum(chunk.length for chunk in chunks))
        work_together(self.remote, sender, streams, lambda: sender.queue.left_bytes, on_bytes)
        return sender.broken

    def unfinished(self, entries: Sequence[wire.FileEntry], *, sure: bool) -> list[wire.FileEntry]:
        """The large files that the host could not name, and the small ones that did not arrive; `sure`: all did."""
        large = [entry for entry in entries if not self.is_small(entry) and entry.path not in self.finished]
        named = self.remote.finish(self.root, large) if large else []
        left = [entry for entry, is_named in zip(large, named, strict=True) if not is_named]
        small = [] if sure else [entry for entry in entries if self.is_small(entry)]
        return left + (self.remote.missing(self.root, small) if small else [])

    def _missing_of(self, entry: wire.FileEntry) -> list[Chunk]:
        chunks = chunks_of(entry, self.chunk_bytes)
        whole = Range(wire.partial_name(entry.path), 0, entry.bytes)
        there = self.remote.digests(self.root, [whole], self.chunk_bytes)
        doubtful = [
            chunk
            for chunk, sha256 in zip(chunks, there, strict=True)
            if sha256 is not None and sha256 != zeros_sha256(chunk.length)
        ]
        if not doubtful:
            return chunks
        _, here = digests_here(self.source / entry.path, doubtful)
        right = {
            chunk.offset
            for chunk, sha256 in zip(doubtful, here, strict=True)
            if sha256 == there[chunk.offset // self.chunk_bytes]
        }
        return [chunk for chunk in chunks if chunk.offset not in right]


@dataclass
class _Sender:
    """The work of every stream: one tar of the chunks that it draws from the common queue."""

    leaving: _Leaving
    queue: Queue
    broken: bool = False
    _sending: int = 0
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, remote: RemoteRun, stream: int, on_bytes: OnBytes) -> None:
        if self.queue.is_empty:
            return
        with self._guard:
            self._sending += 1
            needed = self.queue.left_bytes if self._sending == 1 else 0
        try:
            accepted = remote.accept(self.leaving.root, self._tar(on_bytes), needed)
            self.leaving.finished |= accepted.finished
            if accepted.damaged:
                self.broken = True
        except BaseException:
            self.broken = True
            raise
        finally:
            with self._guard:
                self._sending -= 1

    def _tar(self, on_bytes: OnBytes) -> Iterator[bytes]:
        """Produced piece by piece: memory stays at one piece."""
        for chunk in self.queue:
            path = self.leaving.source / chunk.entry.path
            yield _header(chunk)
            sent = 0
            with path.open("rb") as handle:
                handle.seek(chunk.offset)
                while piece := handle.read(min(PIECE_BYTES, chunk.length - sent)):
                    sent += len(piece)
                    yield piece
                    on_bytes(len(piece))
            if sent != chunk.length or path.stat().st_size != chunk.entry.bytes:
                raise HostError(f"{path} changed while it was being sent", "start again")
            yield bytes(-chunk.length % tarfile.BLOCKSIZE)
        yield bytes(2 * tarfile.BLOCKSIZE)


def _header(chunk: Chunk) -> bytes:
    member = tarfile.TarInfo(chunk.entry.path)
    member.size = chunk.length
    if chunk.is_whole_file:
        member.pax_headers = {wire.TAR_SHA256: chunk.entry.sha256}
    else:
        member.pax_headers = {wire.TAR_OFFSET: str(chunk.offset)}
        if chunk.offset + chunk.length == chunk.entry.bytes:
            member.pax_headers[wire.TAR_SHA256] = chunk.entry.sha256
    return member.tobuf(tarfile.PAX_FORMAT)
