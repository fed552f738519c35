"""From the store to this laptop: a folder, verified, in parallel ranges with bounded memory.

As over SSH, a folder is assembled beside its place and renamed last; files that arrived right are not fetched again.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from orchestrator.checksum import sha256_of
from orchestrator.fetch import disk_full_explained, holds, partial_folder
from orchestrator.storage.api import ObjectStore, StorageError
from orchestrator.storage.run_store import RunStore, StoredFolder
from orchestrator.whole_file import sync_folder, write_atomically
from providers.errors import CloudboothError
from remote_trainer import wire

RANGE_BYTES = 16 << 20
THREADS = 5
"""Memory is bounded by about their product."""


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
        for entry in folder.manifest.files:
            _bring_file(run, f"{folder.prefix}/{entry.path}", entry, partial / entry.path, on_bytes)
        for inside in {parent for entry in folder.manifest.files for parent in (partial / entry.path).parents}:
            if inside == partial or partial in inside.parents:
                sync_folder(inside)
        write_atomically(partial / wire.MANIFEST_NAME, folder.manifest.to_bytes())
        partial.rename(target)
        sync_folder(target.parent)


def _bring_file(run: RunStore, key: str, entry: wire.FileEntry, path: Path, on_bytes: Callable[[int], None]) -> None:
    if path.is_file() and path.stat().st_size == entry.bytes and sha256_of(path) == entry.sha256:
        return
    part = path.with_name(f"{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with part.open("wb") as file, ThreadPoolExecutor(THREADS) as pool:
        for content in _in_order(pool, run.store, key, entry.bytes):
            file.write(content)
            digest.update(content)
            on_bytes(len(content))
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != entry.sha256:
        part.unlink()
        raise StorageError(
            f"{key} in {run.store.url} is damaged: its hash is not that of its manifest",
            f"an older one may be whole: `cloudbooth pull {run.name}` after removing {Path(key).parent}",
        )
    part.replace(path)


def _in_order(pool: ThreadPoolExecutor, store: ObjectStore, key: str, size: int) -> Iterator[bytes]:
    """The object's ranges one after the other, with as many under way as there are threads."""
    ranges = ((offset, min(RANGE_BYTES, size - offset)) for offset in range(0, size, RANGE_BYTES))
    under_way: deque[Future[bytes]] = deque()
    for offset, length in ranges:
        under_way.append(pool.submit(store.get, key, offset, length))
        if len(under_way) > THREADS:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()
