"""A folder as a store: `file:///mnt/nas/cloudbooth`. For a disk that is mounted here, and for tests."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.storage.api import (
    NoSuchObject,
    ObjectChanged,
    ObjectExists,
    StorageError,
    StorageRefused,
    StoredObject,
    checked_key,
    require_composable,
)
from orchestrator.whole_file import sync_folder

COPY_BYTES = 1 << 20
_PARTIAL = ".cloudbooth-part-"


class FolderStore:
    """Implements `ObjectStore`. An object is a file; a write is a hidden file renamed once it is on the disk."""

    def __init__(self, root: Path) -> None:
        self.url = root.absolute().as_uri()
        self._root = root

    def put(self, key: str, content: bytes, *, if_absent: bool = False) -> StoredObject:
        with self._writing(key, if_absent=if_absent) as partial:
            partial.write_bytes(content)
        return self._require(key)

    def put_file(self, key: str, file: Path) -> StoredObject:
        with file.open("rb") as source, self._writing(key) as partial, partial.open("wb") as target:
            shutil.copyfileobj(source, target, COPY_BYTES)
        return self._require(key)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return b"".join(self.pieces(key, offset, length))

    def pieces(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        left = sys.maxsize if length is None else length
        try:
            with self._path(key).open("rb") as handle:
                handle.seek(offset)
                while piece := handle.read(min(left, COPY_BYTES)):
                    left -= len(piece)
                    yield piece
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            self._require_mounted()
            raise _missing(key, self.url) from None
        except OSError as error:
            raise _refused(error, key, self.url) from error

    def head(self, key: str) -> StoredObject | None:
        path = self._path(key)
        try:
            facts = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            self._require_mounted()
            return None
        except OSError as error:
            raise _refused(error, key, self.url) from error
        if not stat.S_ISREG(facts.st_mode):
            return None
        return StoredObject(key, facts.st_size, f"{facts.st_ino}-{facts.st_mtime_ns}")

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        """A disk that cannot be read is an error and never an empty store: runs would begin anew."""
        keys = [path.relative_to(self._root).as_posix() for path in self._files() if not _is_partial(path)]
        for key in sorted(key for key in keys if key.startswith(prefix)):
            if found := self.head(key):
                yield found

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            path = self._path(key)
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as error:
                raise _refused(error, key, self.url) from error
            with contextlib.suppress(OSError):  # the folder still holds something
                while (path := path.parent) != self._root:
                    path.rmdir()

    def compose(self, key: str, sources: Sequence[StoredObject]) -> StoredObject:
        require_composable(sources)
        with self._writing(key) as partial, partial.open("wb") as whole:
            for source in sources:
                if self._require(source.key) != source:
                    raise ObjectChanged(f"{source.key} in {self.url} is no longer what it was")
                with self._path(source.key).open("rb") as part:
                    shutil.copyfileobj(part, whole)
        return self._require(key)

    def abort_stale(self, prefix: str, older_than_s: float) -> int:
        """Here: the hidden files of writers that were killed."""
        count = 0
        for partial in filter(_is_partial, self._files()):
            inside = partial.parent.relative_to(self._root).as_posix() + "/"
            try:
                if inside.startswith(prefix) and time.time() - partial.stat().st_mtime > older_than_s:
                    partial.unlink()
                    count += 1
            except FileNotFoundError:
                pass  # its writer has ended well
            except OSError as error:
                raise _refused(error, partial.name, self.url) from error
        return count

    def _files(self) -> list[Path]:
        self._require_mounted()

        def unreadable(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):  # nothing was ever put, or it is gone since
                raise _refused(error, Path(error.filename or "").name or "/", self.url) from error

        return [Path(folder) / name for folder, _, names in os.walk(self._root, onerror=unreadable) for name in names]

    def _require_mounted(self) -> None:
        if not os.path.exists(self._root) and not os.path.isdir(self._root.parent):
            raise StorageRefused(
                f"{self._root.parent} does not exist", "mount the disk, or make the folder: it is not made by itself"
            )

    @contextlib.contextmanager
    def _writing(self, key: str, *, if_absent: bool = False) -> Iterator[Path]:
        """A path to fill; under the key's name, whole and on the disk, once the body has ended well."""
        self._require_mounted()
        target = self._path(key)
        if if_absent and os.path.lexists(target):
            raise ObjectExists(f"{key} exists already in {self.url}")
        partial = target.with_name(f"{_PARTIAL}{uuid.uuid4().hex}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            _sync(partial)
            if not if_absent:
                partial.replace(target)
            else:
                try:
                    os.link(partial, target)  # unlike a rename, it never replaces
                except FileExistsError:
                    raise ObjectExists(f"{key} exists already in {self.url}") from None
            _sync_folder(target.parent)
        except PermissionError as error:
            raise StorageRefused(
                f"{error.filename} cannot be written", "make it writable, or choose another `--set storage.url=…`"
            ) from None
        except OSError as error:
            raise StorageError(
                f"{self.url} cannot be written: {(error.strerror or str(error)).lower()}",
                "is it mounted and has it room? Then run the command again",
            ) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    def _require(self, key: str) -> StoredObject:
        found = self.head(key)
        if found is None:
            raise _missing(key, self.url)
        return found


def _is_partial(path: Path) -> bool:
    return path.name.startswith(_PARTIAL)


def _missing(key: str, url: str) -> NoSuchObject:
    return NoSuchObject(f"there is no {key} in {url}")


def _refused(error: OSError, key: str, url: str) -> StorageError:
    """A disk that is mounted over a network has many ways to say no."""
    reason = (error.strerror or str(error)).lower()
    kind = StorageRefused if isinstance(error, PermissionError) else StorageError
    return kind(f"{key} in {url} cannot be used: {reason}", "is it mounted? Then run the command again")


def _sync(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    """Some disks that are mounted over a network know files only: their servers keep the names."""
    try:
        sync_folder(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
