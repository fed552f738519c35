"""Unpacking what a service hands out: a tar or a zip that is not trusted.

Nothing leaves the target folder: only regular files are written, by their own names alone; links, devices, absolute
names and names with `..` end the unpacking before anything of theirs is written. So does more than there may be.
"""

from __future__ import annotations

import lzma
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from providers.errors import CloudboothError

MAX_BYTES = 40 << 30
"""Unpacked: the largest LoRA with its captions is far below, and a bomb far above."""
MAX_FILES = 20_000
MAX_NAME_BYTES = 255
"""Of one part of a path, as file systems have it."""
_NO_CHARACTERS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and bytes that are no UTF-8. Blanks of every kind may be: programs name screenshots so."""
_LOOK = "look at the file with `tar -tvf` or `unzip -l` before you trust it"


class UnsafeArchive(CloudboothError):
    """The archive holds what it should not, or is damaged."""


@dataclass(frozen=True)
class Member:
    path: PurePosixPath
    bytes: int


def unpack(archive: Path, folder: Path) -> list[Member]:
    """Writes every file of `archive` below `folder` (made anew) and returns them. Twice is safe.

    Raises UnsafeArchive, with `folder` removed, and OSError for a full disk.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with _damage_explained(archive):
            if zipfile.is_zipfile(archive):
                return _unpack_zip(archive, folder)
            if tarfile.is_tarfile(archive):
                return _unpack_tar(archive, folder)
        raise UnsafeArchive(f"{archive.name} is neither a tar nor a zip", _LOOK)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _unpack_tar(archive: Path, folder: Path) -> list[Member]:
    members, budget = list[Member](), _Budget()
    with tarfile.open(archive) as tar:
        for entry in tar:
            path = _checked(entry.name)
            if entry.isdir():
                continue
            if not entry.isreg():
                raise UnsafeArchive(f"{archive.name} holds {entry.name!r}, which is no plain file", _LOOK)
            source = tar.extractfile(entry)
            assert source is not None
            members.append(_write(path, source, folder, budget))
    return members


def _unpack_zip(archive: Path, folder: Path) -> list[Member]:
    members, budget = list[Member](), _Budget()
    with zipfile.ZipFile(archive) as packed:
        for entry in packed.infolist():
            path = _checked(entry.filename)
            if entry.is_dir():
                continue
            kind = entry.external_attr >> 16 & 0o170000
            if kind not in (0, 0o100000):
                raise UnsafeArchive(f"{archive.name} holds {entry.filename!r}, which is no plain file", _LOOK)
            with packed.open(entry) as source:  # reading it to its end checks its CRC
                members.append(_write(path, source, folder, budget))
    return members


class _Budget:
    """Counts what comes out, not what the archive claims."""

    def __init__(self) -> None:
        self.bytes, self.files = MAX_BYTES, MAX_FILES

    def take(self, count: int) -> None:
        self.bytes -= count
        if self.bytes < 0 or self.files < 0:
            raise UnsafeArchive("the archive holds more than any model does", _LOOK)


def _checked(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in name:
        raise UnsafeArchive(f"the archive holds a name that leads elsewhere: {name!r}", _LOOK)
    encoded = [part.encode("utf-8", "surrogateescape") for part in path.parts]
    if _NO_CHARACTERS.search(name) or any(len(part) > MAX_NAME_BYTES for part in encoded):
        raise UnsafeArchive(f"the archive holds a name that no file can have: {name[:80]!r}", _LOOK)
    return path


def _write(path: PurePosixPath, source: IO[bytes], folder: Path, budget: _Budget) -> Member:
    budget.files -= 1
    target = folder.joinpath(*path.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    with target.open("xb") as file:  # a name that comes twice is no accident
        while chunk := source.read(1 << 20):
            budget.take(len(chunk))
            file.write(chunk)
            done += len(chunk)
    return Member(path, done)


_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, FileExistsError, NotADirectoryError,
    RuntimeError,
)  # fmt: skip


@contextmanager
def _damage_explained(archive: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise UnsafeArchive(f"{archive.name} is damaged: {cast(Exception, error)}", _LOOK) from None
    except OSError as error:
        if error.errno is not None:  # of this disk; those that the decompressors raise have none
            raise
        raise UnsafeArchive(f"{archive.name} is damaged: {error}", _LOOK) from None
