"""A folder as a store on a disk that says no: over a network each call may, and each answer has to be understood."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.storage.api import NoSuchObject, StorageError, StorageRefused, StoredObject
from orchestrator.storage.folder import FolderStore
from orchestrator.storage.run_store import RunStore
from providers.errors import CloudboothError

Refuse = Callable[[str, int], None]
KEY = "runs/a/weights"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path / "nas")
    store.put(KEY, b"content")
    return store


@pytest.fixture
def refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """`refuse("fsync", errno.EIO)`: from now on the system's call fails so, below the store and for open files."""

    def refuse(call: str, number: int) -> None:
        real = getattr(os, call)

        def fails(path: Any, *args: Any, **named: Any) -> Any:
            if isinstance(path, int) or os.fspath(path).startswith(str(tmp_path / "nas")):
                raise OSError(number, os.strerror(number), None if isinstance(path, int) else os.fspath(path))
            return real(path, *args, **named)

        monkeypatch.setattr(os, call, fails)

    return refuse


def put_file(store: FolderStore, folder: Path) -> None:
    (folder / "file").write_bytes(b"new")
    store.put_file(KEY, folder / "file")


WRITES: dict[str, Callable[[FolderStore, Path], object]] = {
    "put": lambda store, _: store.put(KEY, b"new"),
    "put_file": put_file,
    "compose": lambda store, _: store.compose(KEY, [seen(store)]),
}


def seen(store: FolderStore) -> StoredObject:
    found = store.head(KEY)
    assert found is not None
    return found


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(
    ("call", "number"),
    [("fsync", errno.EIO), ("fsync", errno.ENOSPC), ("replace", errno.ESTALE), ("mkdir", errno.EROFS)],
)
def test_a_write_that_fails_leaves_what_was_there_and_nothing_half_done(
    store: FolderStore, refuse: Refuse, tmp_path: Path, write: str, call: str, number: int
) -> None:
    if call == "mkdir":  # it is not called for what exists
        os.unlink(tmp_path / "nas" / KEY)
        os.rmdir(tmp_path / "nas" / "runs" / "a")
        store.put("runs/source", b"content")
    source = store.head("runs/source") or store.head(KEY)
    assert source is not None
    refuse(call, number)
    with pytest.raises(StorageError, match=f"cannot be written: {os.strerror(number).lower()}") as refused:
        store.compose(KEY, [source]) if write == "compose" else WRITES[write](store, tmp_path)
    assert "mounted" in refused.value.hint
    left = [path.name for path in (tmp_path / "nas").rglob("*") if path.is_file()]
    assert left == [source.key.rpartition("/")[2]]
    assert (tmp_path / "nas" / source.key).read_bytes() == b"content"


def test_a_folder_that_may_not_be_written_is_refused_by_name(store: FolderStore, refuse: Refuse) -> None:
    refuse("replace", errno.EACCES)
    with pytest.raises(StorageRefused, match="cannot be written") as refused:
        store.put(KEY, b"new")
    assert "storage.url" in refused.value.hint


def test_a_disk_that_knows_no_sync_of_folders_is_written_all_the_same(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def only_files(descriptor: int) -> None:
        if os.path.isdir(f"/dev/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    store.put(KEY, b"new")
    assert store.get(KEY) == b"new"


@pytest.mark.parametrize(
    ("call", "read"),
    [
        ("stat", lambda store: store.head(KEY)),
        ("scandir", lambda store: list(store.objects("runs/"))),
        ("scandir", lambda store: store.abort_stale("runs/", 0)),
        ("unlink", lambda store: store.delete([KEY])),
    ],
)
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EHOSTDOWN, errno.EACCES])
def test_a_disk_that_cannot_be_asked_is_never_an_empty_one(
    store: FolderStore, refuse: Refuse, call: str, read: Callable[[FolderStore], object], number: int
) -> None:
    refuse(call, number)
    with pytest.raises(StorageError, match=os.strerror(number).lower()) as refused:
        read(store)
    assert isinstance(refused.value, StorageRefused) == (number == errno.EACCES)
    assert not isinstance(refused.value, NoSuchObject)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that cannot be read")
def test_a_read_that_breaks_off_is_an_error(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "nas" / KEY).unlink()
    (tmp_path / "nas" / KEY).symlink_to("/proc/self/mem")  # whose first page nobody may read
    with pytest.raises(StorageError, match="cannot be used") as refused:
        store.get(KEY)
    assert not isinstance(refused.value, NoSuchObject)


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.get(KEY),
        lambda store: store.head(KEY),
        lambda store: list(store.objects()),
        lambda store: store.abort_stale("", 0),
        lambda store: store.put(KEY, b""),
    ],
)
def test_a_disk_that_is_not_mounted_is_no_empty_store(ask: Callable[[FolderStore], object], tmp_path: Path) -> None:
    with pytest.raises(StorageRefused, match="does not exist") as refused:
        ask(FolderStore(tmp_path / "mnt" / "nas"))
    assert "mount the disk" in refused.value.hint


def test_a_file_that_is_not_there_is_the_callers_and_not_the_stores_fault(store: FolderStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        store.put_file(KEY, tmp_path / "no-such-file")
    assert not isinstance(missing.value, CloudboothError)
    assert store.get(KEY) == b"content"


def test_the_end_of_a_run_sweeps_what_writers_of_any_run_left_a_day_ago(store: FolderStore, tmp_path: Path) -> None:
    old, fresh = (tmp_path / "nas" / "runs" / "a" / f".cloudbooth-part-{name}" for name in ("old", "fresh"))
    for left in (old, fresh):
        left.write_bytes(b"half")
    day_before_yesterday = time.time() - 2 * 24 * 3600
    os.utime(old, (day_before_yesterday, day_before_yesterday))
    RunStore(store, "another").clear_incoming()
    assert (old.exists(), fresh.exists()) == (False, True)
