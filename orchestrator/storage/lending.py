"""What the laptop lends a machine for its uploads: URLs for a pool of objects, without any key of the account.

How large a checkpoint or an export becomes is known only when it is written. The pool therefore holds four checkpoints
and two exports of the estimated size: one of twice the estimate fits, while the newest one before it stays untouched.
An URL that is never used costs nothing and makes no object.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass

from orchestrator.storage.api import MIN_PART_BYTES, HandsOverKeys, ObjectStore, Presigns
from remote_trainer import wire

CHECKPOINTS_IN_POOL = 4
EXPORTS_IN_POOL = 2
SMALL_FILES = 64
"""Each file ends in a chunk of its own, however small: so many are added to what the bytes need."""
MAX_CHUNKS = 1500
"""Bounds the URLs, at half a kilobyte each, that travel and are kept in memory."""
SMALLEST_CHUNK_BYTES = 8 << 20
INDEXES = 8
RENEW_AT_SHARE = 0.5
"""A grant with less than this share of its life left is replaced while the laptop is in contact."""
INCOMING = "incoming"


@dataclass(frozen=True)
class PoolSize:
    chunk_bytes: int
    chunks: int


def pool_size(checkpoint_bytes: int, export_bytes: int) -> PoolSize:
    """For estimates of one checkpoint and one export. The chunks grow with them, in steps of S3's smallest part."""
    total = CHECKPOINTS_IN_POOL * checkpoint_bytes + EXPORTS_IN_POOL * export_bytes
    chunk_bytes = max(SMALLEST_CHUNK_BYTES, math.ceil(total / MAX_CHUNKS / MIN_PART_BYTES) * MIN_PART_BYTES)
    return PoolSize(chunk_bytes, math.ceil(total / chunk_bytes) + SMALL_FILES)


def is_due(left_s: float | None, lifetime_s: float) -> bool:
    """Whether to lend anew to a machine whose grant is good for `left_s` (None: it has none)."""
    return left_s is None or left_s < lifetime_s * RENEW_AT_SHARE


def lend(store: ObjectStore, prefix: str, size: PoolSize, *, hand_over_keys: bool = False) -> wire.UploadGrant:
    """A new pool below `prefix` of the store, signed for as long as its credentials allow. No exchange with the store.

    With `hand_over_keys` nothing is signed here, and the grant holds the store's keys. Raises TypeError for a store
    that can do neither (`can_lend`), and StorageRefused without credentials.
    """
    if not isinstance(store, Presigns):
        raise TypeError(f"{store.url} cannot lend")
    keys = store.store_keys() if hand_over_keys and isinstance(store, HandsOverKeys) else None
    lifetime_s = store.presign_limit().seconds
    grant_id = uuid.uuid4().hex[:12]
    root = f"{prefix}/{INCOMING}/{grant_id}"

    def put(name: str) -> str:
        key = f"{root}/{name}"
        if keys is not None and isinstance(store, HandsOverKeys):
            return store.object_url(key)
        return store.presign_put(key, lifetime_s)

    def both(name: str) -> wire.LentObject:
        url = put(name)
        return wire.LentObject(url, url if keys is not None else store.presign_get(f"{root}/{name}", lifetime_s))

    return wire.UploadGrant(
        id=grant_id,
        chunk_bytes=size.chunk_bytes,
        chunks=tuple(put(chunk_name(number)) for number in range(size.chunks)),
        indexes=tuple(both(index_name(number)) for number in range(INDEXES)),
        probe=both("probe"),
        lifetime_s=lifetime_s,
        keys=keys,
    )


def can_lend(store: ObjectStore) -> bool:
    return isinstance(store, Presigns)


def chunk_name(number: int) -> str:
    return f"chunk-{number:05d}"


def index_name(number: int) -> str:
    return f"index-{number:02d}.json"
