"""The files of a host, read and written for the laptop: read, digest, have, accept, finish. Standard library only, 3.9.

Nothing is remembered between calls. What has arrived is told by hashes of what lies on the disk, never by a record of
what was sent: a process may be killed at any byte, and a disk may lose its last seconds.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Optional

from . import wire
from .contact import Renewing
from .deadline import HERE, Clocks

COPY_BYTES = 1 << 20
PIECE_BYTES = 256 << 10
"""Of what comes in: it stays in the processor's cache."""
HANDLES_AT_ONCE = 256
"""Well below the 1024 descriptors that a login may have."""
SETTLE_BYTES = 8 << 20
"""Small files get their names in groups of this size: one wait for the disk for many, and little to send again."""
SIGN_OF_LIFE_S = 1.0


class Refused(Exception):
    """The call cannot be answered; the text goes to stderr as it is."""


class Range(NamedTuple):
    path: str
    """Relative to the root of the call."""
    offset: int
    length: Optional[int]
    """None: up to the end."""


def ranges_from_json(text: str) -> list[Range]:
    return [Range(path, offset, length) for path, offset, length in json.loads(text)]


def read(root: Path, ranges: Sequence[Range], out: BinaryIO, clocks: Clocks = HERE) -> None:
    """Concatenates the ranges: the caller knows the sizes and cuts the stream.

    Files are opened ahead of the first byte (HANDLES_AT_ONCE of them): a checkpoint that is pruned during a slow
    transfer arrives whole all the same. Raises Refused for a file that ends within its range.
    """
    renewing = Renewing(root, clocks)
    for first in range(0, len(ranges), HANDLES_AT_ONCE):
        with contextlib.ExitStack() as opened:
            batch = ranges[first : first + HANDLES_AT_ONCE]
            handles = [opened.enter_context(open(inside(root, wanted.path), "rb")) for wanted in batch]
            for handle, wanted in zip(handles, batch):
                offset, left = wanted.offset, wanted.length
                while left is None or left > 0:
                    count = _send(handle, offset, COPY_BYTES if left is None else min(left, COPY_BYTES), out)
                    if not count:
                        break
                    renewing()
                    offset, left = offset + count, None if left is None else left - count
                if left:
                    raise Refused(f"{wanted.path} is {left} bytes shorter than it was said to be")
    out.flush()


def digest(root: Path, ranges: Sequence[Range], chunk_bytes: int, out: BinaryIO) -> None:
    """One line for each `chunk_bytes` of each range (the last one of a range may be shorter): its sha256, or `-` where
    the file does not reach so far. Empty lines between them are signs of life."""
    for wanted in ranges:
        assert wanted.length is not None
        try:
            handle = open(inside(root, wanted.path), "rb")
        except FileNotFoundError:
            handle = None
        with handle or contextlib.nullcontext():
            for offset in range(wanted.offset, wanted.offset + wanted.length, chunk_bytes):
                length = min(chunk_bytes, wanted.offset + wanted.length - offset)
                found = None if handle is None else _sha256_of_range(handle, offset, length, _SignOfLife(out, root))
                out.write((found or "-").encode() + b"\n")
                out.flush()


def have(root: Path, wanted: Sequence[wire.FileEntry]) -> list[str]:
    """Which of the wanted files lie below `root` with equal size and hash."""
    return [entry.path for entry in wanted if _matches(inside(root, entry.path), entry)]


class Accepted(NamedTuple):
    """What became of the files of one stream, by their paths."""

    damaged: list[str]
    """Whole files whose hash is not what it was said to be."""
    finished: list[str]
    """Large ones that came in ranges, and have their names."""


def accept(
    root: Path,
    stream: BinaryIO,
    needed_bytes: int = 0,
    clocks: Clocks = HERE,
    before_naming: Callable[[], None] = lambda: None,
    out: Optional[BinaryIO] = None,
) -> Accepted:
    """Unpacks a tar stream of plain files, and of ranges of files, below `root`.

    A whole file gets its name when its bytes are on the disk and its hash is right. A range (`wire.TAR_OFFSET`) goes
    into the file's partial; one that has all its ranges from this stream, in their order, gets its name as well, and
    others are left to `finish`. Raises Refused, before it takes anything, when less than `needed_bytes` are free. What
    `before_naming` raises ends it: a stream lasts minutes, and whoever sends it may have lost the right to. `out` gets
    empty lines as signs of life while a slow disk is waited for.
    """
    _require_room(root, needed_bytes)
    accepted = Accepted([], [])
    followed: dict[Path, _Followed] = {}
    renewing = Renewing(root, clocks)
    incoming = _Incoming(stream)
    buffer = memoryview(bytearray(PIECE_BYTES))
    with _Settling(out and _SignOfLife(out, root)) as settling, tarfile.TarFile(fileobj=incoming) as archive:  # type: ignore[arg-type]
        while (member := archive.next()) is not None:
            if not member.isfile():
                raise Refused(f"the stream holds something that is no plain file: {member.name}")
            target = inside(root, member.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            offset, expected = (member.pax_headers.get(name) for name in (wire.TAR_OFFSET, wire.TAR_SHA256))
            whole = offset is None
            file = _Followed() if offset is None else followed.setdefault(target, _Followed())
            follows = file.begins(int(offset or 0), member.size)
            flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if whole else 0)
            with open(os.open(partial(target), flags, 0o666), "wb", buffering=0) as handle:
                handle.seek(int(offset or 0))
                left = member.size
                while left:
                    piece = buffer[: min(left, PIECE_BYTES)]
                    incoming.fill(piece)
                    _write_all(handle, piece)
                    renewing()
                    left -= len(piece)
                    if follows:
                        file.update(piece)
            incoming.fill(buffer[: -member.size % tarfile.BLOCKSIZE])
            before_naming()
            if offset is not None:
                if expected is not None and file.is_right(expected):
                    os.truncate(partial(target), file.bytes)  # an older file of this name may have been longer
                    settling.add(target, file.bytes)
                    accepted.finished.append(member.name)
            elif expected is not None and not file.is_right(expected):
                partial(target).unlink()
                accepted.damaged.append(member.name)
            else:
                settling.add(target, member.size)
    return accepted


def finish(root: Path, entries: Sequence[wire.FileEntry], out: BinaryIO) -> None:
    """Names the files whose partials are complete and right; one line for each: `true`, or `false` for one that is not.

    A file that has its name and is right counts as well: twice is safe. Empty lines are signs of life.
    """
    for entry in entries:
        target = inside(root, entry.path)
        named = _settle_if_right(target, entry, _SignOfLife(out, root))
        out.write(json.dumps(named).encode() + b"\n")
        out.flush()


def partial(target: Path) -> Path:
    """Where a file grows."""
    return target.with_name(wire.partial_name(target.name))


def sha256_of(path: Path) -> str:
    with open(path, "rb") as handle:
        return _sha256_of_range(handle, 0, path.stat().st_size) or ""


def wanted_from_json(raw: bytes) -> list[wire.FileEntry]:
    return [wire.decode(wire.FileEntry, item) for item in json.loads(raw)]


def inside(root: Path, name: str) -> Path:
    """Raises Refused for a name that would leave `root`."""
    target = Path(os.path.normpath(root / name))
    if Path(os.path.normpath(root)) not in target.parents:
        raise Refused(f"{name!r} lies outside the folder")
    return target


class _Incoming:
    """A stream that `tarfile` takes the headers from and we the content of files: it would copy that several times.

    Whoever reads to the end of a file's last block never makes `tarfile` seek.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._position = stream, 0

    def tell(self) -> int:
        return self._position

    def read(self, count: int) -> bytes:
        content = self._stream.read(count)
        self._position += len(content)
        return content

    def fill(self, view: memoryview) -> None:
        """Raises ReadError when the stream ends before."""
        while view:
            count = self._stream.readinto(view)  # type: ignore[attr-defined]  # every binary stream has it
            if not count:
                raise tarfile.ReadError("unexpected end of data")
            self._position += count
            view = view[count:]


class _Followed:
    """The hash of a file that arrives: of what was written, range by range.

    `bytes` is how far it goes. A range that is not the next one leaves it where it is.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.bytes = 0
        self._ends_at = 0

    def begins(self, offset: int, length: int) -> bool:
        """Whether the range that comes now is the next one: its bytes are for `update` then."""
        self._ends_at = offset + length
        return offset == self.bytes

    def update(self, piece: memoryview) -> None:
        self._sha256.update(piece)
        self.bytes += len(piece)

    def is_right(self, sha256: str) -> bool:
        """Whether all up to the end of the newest range has this hash."""
        return self.bytes == self._ends_at and self._sha256.hexdigest() == sha256


class _SignOfLife:
    """An empty line whenever a second has passed without one: somebody may be waiting for a large file's hash. The
    lease hears of it, too."""

    def __init__(self, out: BinaryIO, root: Path) -> None:
        self._out = out
        self._renewing = Renewing(root)
        self._shown_at = time.monotonic()

    def __call__(self) -> None:
        self._renewing()
        now = time.monotonic()
        if now - self._shown_at >= SIGN_OF_LIFE_S:
            self._shown_at = now
            self._out.write(b"\n")
            self._out.flush()


class _Settling:
    """Files that are complete under their partials' names. Leaving the context names what is left, however it ends."""

    def __init__(self, show_life: Optional[_SignOfLife]) -> None:
        self._show_life = show_life
        self._targets: list[Path] = []
        self._bytes = 0

    def __enter__(self) -> _Settling:
        return self

    def __exit__(self, *_: object) -> None:
        self._settle()

    def add(self, target: Path, size: int) -> None:
        self._targets.append(target)
        self._bytes += size
        if self._bytes >= SETTLE_BYTES:
            self._settle()

    def _settle(self) -> None:
        targets, self._targets, self._bytes = self._targets, [], 0
        for target in targets:
            _settle(target, self._show_life)


def _settle(target: Path, show_life: Optional[_SignOfLife]) -> None:
    """Gives the file its name when its bytes are on the disk, which may have gigabytes to write yet."""
    with open(partial(target), "rb") as handle:
        _sync(handle, show_life)
    os.replace(partial(target), target)


def _sync(handle: BinaryIO, show_life: Optional[_SignOfLife]) -> None:
    if show_life is None or os.fstat(handle.fileno()).st_size <= SETTLE_BYTES:
        os.fsync(handle.fileno())
        return
    failures: list[OSError] = []

    def sync() -> None:
        try:
            os.fsync(handle.fileno())
        except OSError as error:
            failures.append(error)

    syncing = threading.Thread(target=sync, daemon=True)
    syncing.start()
    while syncing.is_alive():
        syncing.join(SIGN_OF_LIFE_S)
        show_life()
    if failures:
        raise failures[0]


def _settle_if_right(target: Path, entry: wire.FileEntry, show_life: _SignOfLife) -> bool:
    arrived = partial(target)
    if not arrived.exists():
        return _matches(target, entry)
    if arrived.stat().st_size > entry.bytes:
        os.truncate(arrived, entry.bytes)  # left by an older file of this name
    with open(arrived, "rb") as handle:
        if _sha256_of_range(handle, 0, entry.bytes, show_life) != entry.sha256:
            return False
    try:
        _settle(target, show_life)
    except FileNotFoundError:
        return _matches(target, entry)  # by a stream that was given up, and went on
    return True


def _require_room(root: Path, needed_bytes: int) -> None:
    standing = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(standing).free
    if needed_bytes > free:
        raise Refused(
            f"No space left on device: {needed_bytes / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free in {root}"
        )


def _send(handle: BinaryIO, offset: int, count: int, out: BinaryIO) -> int:
    """Copies up to `count` bytes from `offset` on; returns how many, 0 at the end of the file. The kernel does it where
    it can: that takes a third of the time."""
    try:
        target = out.fileno()
    except (OSError, AttributeError):
        target = -1  # no file of the system's: memory, in tests
    if target >= 0 and hasattr(os, "sendfile"):
        out.flush()
        try:
            return os.sendfile(target, handle.fileno(), offset, count)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK):
                raise
    piece = os.pread(handle.fileno(), count, offset)
    out.write(piece)
    return len(piece)


def _write_all(handle: BinaryIO, view: memoryview) -> None:
    while view:
        view = view[handle.write(view) :]


def _pieces(handle: BinaryIO, offset: int, length: int) -> Iterator[bytes]:
    handle.seek(offset)
    while length > 0:
        piece = handle.read(min(length, COPY_BYTES))
        if not piece:
            return
        length -= len(piece)
        yield piece


def _sha256_of_range(
    handle: BinaryIO, offset: int, length: int, show_life: Optional[_SignOfLife] = None
) -> Optional[str]:
    """None when the file ends within the range."""
    sha256, left = hashlib.sha256(), length
    for piece in _pieces(handle, offset, length):
        sha256.update(piece)
        left -= len(piece)
        if show_life is not None:
            show_life()
    return None if left else sha256.hexdigest()


def _matches(path: Path, entry: wire.FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes and sha256_of(path) == entry.sha256
