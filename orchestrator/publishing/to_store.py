"""Into object storage or a folder: every file of the manifest, and the manifest last: what has one is whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orchestrator.finished_model import FinishedModel
from orchestrator.storage.api import ObjectStore, Presigns, StorageError
from remote_trainer import wire

LENT_S = 7 * 24 * 3600.0


def publish_to_store(store: ObjectStore, model: FinishedModel, told: Callable[[str, int], None]) -> list[str]:
    """Writes below `NAME/` and returns the keys. Twice is safe. Raises StorageError and OSError.

    `told` hears (key, bytes) before each file.
    """
    manifest = wire.Manifest.from_bytes((model.folder / wire.MANIFEST_NAME).read_bytes())
    paths = [*(entry.path for entry in manifest.files), wire.MANIFEST_NAME]
    return [_put(store, model.folder / path, f"{model.name}/{path}", told) for path in paths]


def _put(store: ObjectStore, file: Path, key: str, told: Callable[[str, int], None]) -> str:
    size = file.stat().st_size
    told(key, size)
    store.put_file(key, file)
    stored = store.head(key)
    if stored is None or stored.bytes != size:
        raise StorageError(f"{key} did not arrive whole in {store.url}", "publish again")
    return key


def lend_file(store: ObjectStore, file: Path, name: str, told: Callable[[str, int], None]) -> tuple[str, float]:
    """Puts one file there and returns an address by which anybody can read it, and for how many seconds.

    Raises StorageError for a store that lends nothing.
    """
    if not isinstance(store, Presigns):
        raise StorageError(f"{store.url} lends no addresses", "use s3://…, or publish to hf: and name the repository")
    key = _put(store, file, f"{name}/{file.name}", told)
    lifetime_s = min(LENT_S, store.presign_limit().seconds)
    return store.presign_get(key, lifetime_s), lifetime_s
