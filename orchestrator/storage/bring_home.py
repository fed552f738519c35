"""From the store to this laptop: a folder, verified, in parallel ranges with bounded memory.

As over SSH, a folder is assembled beside its place and renamed last; files that arrived right are not fetched again.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

from orchestrator.checksum import sha256_of
from orchestrator.fetch import disk_full_explained, holds, partial_folder
from orchestrator.storage.api import ObjectStore, StorageError, StorageUnreachable
from orchestrator.storage.run_store import RunStore, StoredFolder
from orchestrator.transfer.streams import NEAR_S, first_streams
from orchestrator.whole_file import sync_folder, write_atomically
from providers.errors import CloudboothError
from remote_trainer import wire

RANGE_BYTES = 16 << 20
NEAR_RANGE_BYTES = 64 << 20
"""A near server may share this processor: few, large requests leave it more of that."""
ASKED_FOR_ROUND_TRIP = 3
ATTEMPTS_WITHOUT_A_BYTE = 3
"""A range that breaks off is continued at once, until this many requests in a row have brought nothing."""
PIECE_BYTES = 256 << 10


def bring_home(
    run: RunStore, folder: StoredFolder, target: Path, again: str, on_bytes: Callable[[int], None] = lambda _count: None
) -> None:
    """Makes `target` an exact copy of a folder of the store. Twice is safe, at once is not.

    `again` is the command that continues. Raises StorageError for a file that is damaged in the store, and
    CloudboothError when the disk is full or something else lies at `target`.
    """
    if holds(target, folder.manifest):
        return
    if target.exists():
        raise CloudboothError(f"{target} holds something else than {folder.prefix}", f"move it away, then {again}")
    partial = partial_folder(target)
    with disk_full_explained(target, again):
        partial.mkdir(parents=True, exist_ok=True)
        round_trip_s = _round_trip_s(run.store, f"{folder.prefix}/{wire.MANIFEST_NAME}")
        for entry in folder.manifest.files:
            _bring_file(run, f"{folder.prefix}/{entry.path}", entry, partial / entry.path, round_trip_s, on_bytes)
        for inside in {parent for entry in folder.manifest.files for parent in (partial / entry.path).parents}:
            if inside == partial or partial in inside.parents:
                sync_folder(inside)
        write_atomically(partial / wire.MANIFEST_NAME, folder.manifest.to_bytes())
        partial.rename(target)
        sync_folder(target.parent)


def _round_trip_s(store: ObjectStore, key: str) -> float:
    """The shortest of a few small requests."""

    def asked_s() -> float:
        started = time.monotonic()
        store.head(key)
        return time.monotonic() - started

    return min(asked_s() for _ in range(ASKED_FOR_ROUND_TRIP))


def _bring_file(
    run: RunStore,
    key: str,
    entry: wire.FileEntry,
    path: Path,
    round_trip_s: float,
    on_bytes: Callable[[int], None],
) -> None:
    if path.is_file() and path.stat().st_size == entry.bytes and sha256_of(path) == entry.sha256:
        return
    part = path.with_name(f"{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    streams = first_streams(entry.bytes, round_trip_s)
    with part.open("w+b", buffering=0) as file, ThreadPoolExecutor(streams) as pool:
        at_once = NEAR_RANGE_BYTES if round_trip_s < NEAR_S else RANGE_BYTES
        ranges = [(offset, min(at_once, entry.bytes - offset)) for offset in range(0, entry.bytes, at_once)]
        given_up = threading.Event()
        arriving = [pool.submit(_bring_range, run.store, key, part, *each, given_up) for each in ranges]
        try:
            for arrival, (_, length) in zip(arriving, ranges, strict=True):
                arrival.result()
                _add_to(digest, file, length)
                on_bytes(length)
        except BaseException:  # Ctrl-C too, and 16 MiB over a slow line are minutes
            given_up.set()
            pool.shutdown(cancel_futures=True)
            raise
        os.fsync(file.fileno())
    if digest.hexdigest() != entry.sha256:
        part.unlink()
        raise StorageError(
            f"{key} in {run.store.url} is damaged: its hash is not that of its manifest",
            "the same command once more, for it may have been replaced meanwhile; where it stays damaged, an older one "
            f"may be whole, after removing {Path(key).parent}",
        )
    part.replace(path)


def _bring_range(store: ObjectStore, key: str, part: Path, offset: int, length: int, given_up: threading.Event) -> None:
    """Raises StorageUnreachable when nothing comes any more. An object that is too short leaves the rest as it is, and
    so does `given_up`, from the next piece on.
    """
    end, fruitless = offset + length, 0
    with part.open("r+b", buffering=0) as file:
        file.seek(offset)
        while True:
            try:
                for piece in store.pieces(key, offset, end - offset):
                    if given_up.is_set():
                        return
                    left = memoryview(piece)
                    while left:
                        left = left[file.write(left) :]
                    offset, fruitless = offset + len(piece), 0
                return
            except StorageUnreachable:
                fruitless += 1
                if fruitless >= ATTEMPTS_WITHOUT_A_BYTE:
                    raise


def _add_to(digest: hashlib._Hash, file: FileIO, length: int) -> None:
    """The next `length` bytes of the file, mostly out of the system's cache; fewer when it ends before."""
    piece = memoryview(bytearray(min(PIECE_BYTES, length)))
    while count := file.readinto(piece[:length]):
        digest.update(piece[:count])
        length -= count
