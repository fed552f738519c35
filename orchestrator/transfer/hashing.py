"""The hashes of files that are arriving, computed beside their arrival instead of after it.

Chunks come in any order and a sha256 wants them in theirs: one thread follows each file up to its first gap. It reads
what the disk was given, mostly out of the system's cache, and `hashlib` lets the other threads run meanwhile.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

from orchestrator.transfer.chunks import Chunk
from remote_trainer import wire

PIECE_BYTES = 256 << 10
"""Read over and over into one place, which stays in the processor's cache."""


@dataclass
class _Followed:
    """One file: what is hashed of it, and what it still lacks."""

    entry: wire.FileEntry
    lacking: set[int] = field(default_factory=set)
    """Offsets of the chunks that have not arrived. What no chunk covers was there before, and right."""
    hashed: int = 0
    sha256: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def reach(self) -> int:
        """How far the file is known to hold what it should."""
        return min(self.lacking, default=self.entry.bytes)


class Following:
    """Hashes files as their chunks arrive. A context manager: leaving it waits for the last hash, or, when an error is
    on its way, ends at once.

    `place` says where a file grows. `on_right` is called, from the hashing thread, for each file that is complete and
    has the hash it should have. Raises, on leaving, what reading the files has raised.
    """

    def __init__(
        self, chunks: Sequence[Chunk], place: Callable[[wire.FileEntry], Path], on_right: Callable[[str], None]
    ) -> None:
        self._place, self._on_right = place, on_right
        self._files: dict[str, _Followed] = {}
        for chunk in chunks:
            self._files.setdefault(chunk.entry.path, _Followed(chunk.entry)).lacking.add(chunk.offset)
        self._arrived: SimpleQueue[Chunk | None] = SimpleQueue()
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._piece = memoryview(bytearray(PIECE_BYTES))
        self._thread = threading.Thread(target=self._follow, name="transfer-hash", daemon=True)

    def arrived(self, chunk: Chunk) -> None:
        """All of the chunk has been written. From any thread, once for each chunk."""
        self._arrived.put(chunk)

    def __enter__(self) -> Following:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._ended.set()
        self._arrived.put(None)
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _follow(self) -> None:
        try:
            while chunk := self._arrived.get():
                followed = self._files[chunk.entry.path]
                followed.lacking.discard(chunk.offset)
                self._catch_up(followed)
        except BaseException as error:  # raised where the files were asked for, whatever it is
            self._error = error

    def _catch_up(self, followed: _Followed) -> None:
        with self._place(followed.entry).open("rb", buffering=0) as handle:
            handle.seek(followed.hashed)
            while left := followed.reach - followed.hashed:
                count = handle.readinto(self._piece[: min(left, PIECE_BYTES)])
                if not count or self._ended.is_set():
                    return
                followed.sha256.update(self._piece[:count])
                followed.hashed += count
        if not followed.lacking and followed.sha256.hexdigest() == followed.entry.sha256:
            self._on_right(followed.entry.path)
