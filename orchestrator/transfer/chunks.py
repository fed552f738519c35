"""What there is to move, cut into chunks, and how several streams share it. Pure but for the lock of the shares.

A chunk is the unit of everything: a range of one file, at most `CHUNK_BYTES` long, that is resumed, verified, sent
again and handed from stream to stream as a whole.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from remote_trainer import wire

CHUNK_BYTES = 8 << 20
"""Small enough that a stream's loss at a kill is nothing, large enough that a 7 GB file has under a thousand."""

WORTH_TAKING_OVER_BYTES = 2 * CHUNK_BYTES
"""A stream that loses the end of its run has up to a window of it (4 MiB) under way already, for nothing."""
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Chunk:
    entry: wire.FileEntry
    offset: int
    length: int

    @property
    def is_whole_file(self) -> bool:
        return self.length == self.entry.bytes


@dataclass(frozen=True)
class Range:
    """Neighboring chunks of one file, as a host is asked for them."""

    path: str
    offset: int
    length: int


def chunks_of(entry: wire.FileEntry, chunk_bytes: int = CHUNK_BYTES) -> list[Chunk]:
    """In order. An empty file is one empty chunk: it has to be made, too."""
    if entry.bytes == 0:
        return [Chunk(entry, 0, 0)]
    return [
        Chunk(entry, offset, min(chunk_bytes, entry.bytes - offset)) for offset in range(0, entry.bytes, chunk_bytes)
    ]


def ranges_of(chunks: Sequence[Chunk]) -> list[Range]:
    """The chunks in their order, neighbors joined."""
    ranges: list[Range] = []
    for chunk in chunks:
        last = ranges[-1] if ranges else None
        if last is not None and last.path == chunk.entry.path and last.offset + last.length == chunk.offset:
            ranges[-1] = Range(last.path, last.offset, last.length + chunk.length)
        else:
            ranges.append(Range(chunk.entry.path, chunk.offset, chunk.length))
    return ranges


def dealt_out(chunks: Sequence[Chunk], hands: int) -> list[Chunk]:
    """In an order of which each of `hands` equal parts has every so-manieth chunk: streams that take a part each move
    through a file side by side, and its hash can follow them."""
    return [chunk for hand in range(hands) for chunk in chunks[hand::hands]]


def digests_here(path: Path, chunks: Sequence[Chunk]) -> tuple[str, list[str | None]]:
    """The sha256 of a file of this machine, if the chunks are all of it, and of each chunk; None for one that the file
    does not reach to the end of. Reads each chunk once; memory stays at a piece."""
    whole, each = hashlib.sha256(), list[str | None]()
    with path.open("rb") as handle:
        for chunk in chunks:
            sha256, left = hashlib.sha256(), chunk.length
            handle.seek(chunk.offset)
            while piece := handle.read(min(left, _PIECE_BYTES)):
                sha256.update(piece)
                whole.update(piece)
                left -= len(piece)
            each.append(None if left else sha256.hexdigest())
    return whole.hexdigest(), each


@cache
def zeros_sha256(count: int) -> str:
    """Of a hole in a file that was written in any order: such a chunk counts as absent, whatever it should hold."""
    return hashlib.sha256(bytes(count)).hexdigest()


@dataclass
class _Share:
    """One stream's part of the list, as positions: `begin` is its next chunk, `end` the first that is not its own."""

    begin: int
    end: int
    at_work: bool = False


class Shares:
    """A list of chunks divided among streams that come, go and differ in speed. Every method may be called at once.

    Each stream has a run of neighbors, so that one request fetches many. One that has nothing takes the second half of
    the longest run that is left, unless so little is left that what the other has under way already would be wasted.
    """

    def __init__(self, chunks: Sequence[Chunk], streams: int) -> None:
        self._chunks = chunks
        self._guard = threading.Lock()
        bounds = [round(len(chunks) * n / streams) for n in range(streams + 1)]
        self._shares = {n: _Share(bounds[n], bounds[n + 1]) for n in range(streams)}

    @property
    def left_bytes(self) -> int:
        """Of chunks that nobody has claimed."""
        with self._guard:
            return sum(map(self._bytes_of, self._shares.values()))

    def run_for(self, stream: int, at_most: int) -> list[Chunk]:
        """The chunks that `stream` may ask for next; empty when nothing is left for it."""
        with self._guard:
            mine = self._shares.setdefault(stream, _Share(0, 0))
            if mine.begin == mine.end:
                longest = max(self._shares.values(), key=lambda share: (self._bytes_of(share), share.end - share.begin))
                if not longest.at_work or self._bytes_of(longest) >= WORTH_TAKING_OVER_BYTES:
                    middle = (longest.begin + longest.end) // 2
                    mine.begin, mine.end, longest.end = middle, longest.end, middle
            mine.at_work = True
            return list(self._chunks[mine.begin : min(mine.end, mine.begin + at_most)])

    def leave(self, stream: int) -> None:
        """The stream has ended: whatever it has not claimed is anybody's."""
        with self._guard:
            self._shares[stream].at_work = False

    def _bytes_of(self, share: _Share) -> int:
        return sum(chunk.length for chunk in self._chunks[share.begin : share.end])

    def claim(self, stream: int, chunk: Chunk) -> bool:
        """Whether `chunk`, the next of the stream's run, is still its own; from now on nobody else gets it."""
        with self._guard:
            mine = self._shares[stream]
            if mine.begin == mine.end or self._chunks[mine.begin] is not chunk:
                return False
            mine.begin += 1
            return True

    def give_back(self, stream: int) -> None:
        """The chunk claimed last did not arrive whole: it is the next one again."""
        with self._guard:
            self._shares[stream].begin -= 1


@dataclass
class Queue:
    """Chunks handed out one by one, in order. `take` may be called from several threads."""

    chunks: Sequence[Chunk]
    _next: int = 0
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @property
    def left_bytes(self) -> int:
        with self._guard:
            return sum(chunk.length for chunk in self.chunks[self._next :])

    @property
    def is_empty(self) -> bool:
        with self._guard:
            return self._next == len(self.chunks)

    def __iter__(self) -> Iterator[Chunk]:
        """Ends when nothing is left, for whoever asks."""
        while True:
            with self._guard:
                if self._next == len(self.chunks):
                    return
                chunk = self.chunks[self._next]
                self._next += 1
            yield chunk
