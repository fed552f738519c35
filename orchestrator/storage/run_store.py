"""One run's part of a store: where its objects lie, and how uploads of a machine become files.

    runs/<run>/run.json                                what it takes to go on elsewhere; no secret
    runs/<run>/ship/data/…                             the prepared photos
    runs/<run>/checkpoints/checkpoint-000100/…         files of a checkpoint, its manifest.json last
    runs/<run>/output/…                                the model, its manifest.json last
    runs/<run>/incoming/<grant>/…                      what a machine has uploaded, until it is put together

A folder without a manifest does not exist, here as on a disk. Everything is safe to repeat and to be killed in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.storage.api import NoSuchObject, ObjectChanged, ObjectStore, StorageError, StoredObject
from orchestrator.storage.lending import INCOMING, chunk_name
from orchestrator.understanding import understood
from remote_trainer import wire

RUNS = "runs"
STALE_MULTIPART_S = 24 * 3600.0
"""An unfinished multipart write this old has no writer any more."""

Kind = Literal["checkpoint", "output"]


@dataclass(frozen=True)
class StoredFolder:
    """A checkpoint or a model that stands whole in the store."""

    kind: Kind
    step: int
    prefix: str
    """Of its objects, without the slash at the end."""
    manifest: wire.Manifest


class RunStore:
    """`name` is the run's folder name: unique among all laptops that share the store."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self.store = store
        self.name = name
        self.prefix = f"{RUNS}/{name}"

    @property
    def url(self) -> str:
        """What `cloudbooth resume --from` takes."""
        return f"{self.store.url}/{self.prefix}"

    # ---- what is there ---------------------------------------------------------------------------------------------

    def checkpoints(self) -> list[StoredFolder]:
        """Oldest first."""
        root = f"{self.prefix}/{wire.CHECKPOINTS_FOLDER}/"
        keys = [found.key for found in self.store.objects(root) if found.key.endswith(f"/{wire.MANIFEST_NAME}")]
        found = (self._folder("checkpoint", key.removesuffix(f"/{wire.MANIFEST_NAME}")) for key in keys)
        return sorted((folder for folder in found if folder is not None), key=lambda folder: folder.step)

    def output(self) -> StoredFolder | None:
        return self._folder("output", f"{self.prefix}/{wire.OUTPUT_FOLDER}")

    def _folder(self, kind: Kind, prefix: str) -> StoredFolder | None:
        try:
            raw = self.store.get(f"{prefix}/{wire.MANIFEST_NAME}")
        except NoSuchObject:
            return None
        with understood(f"{prefix}/{wire.MANIFEST_NAME} in {self.store.url}"):
            manifest = wire.Manifest.from_bytes(raw)
        return StoredFolder(kind, manifest.step, prefix, manifest)

    # ---- putting uploads together ----------------------------------------------------------------------------------

    def settle(self, keep_last: int, keep_every: int) -> list[StoredFolder]:
        """Puts together what machines have uploaded since, and removes checkpoints that need not be kept. The best one
        stays beside those of `retained`.

        Returns what is new, checkpoints first. One that the machine overwrites meanwhile is left to its successor.
        """
        uploads = self._uploads()
        there = {folder.step: folder for folder in self.checkpoints()}
        new = list[StoredFolder]()
        # Newest first, and only what is whole counts: an upload that cannot be put together displaces nothing.
        for step in sorted({upload.step for upload in uploads if upload.kind == "checkpoint"}, reverse=True):
            if step in retained({*there, *(folder.step for folder in new), step}, keep_last, keep_every):
                new += self._newly_whole("checkpoint", step, uploads)
        steps = {*there, *(folder.step for folder in new)}
        kept = {*retained(steps, keep_last, keep_every), self._best(max(steps, default=0))}
        for step, folder in there.items():
            if step not in kept:
                self._remove(folder.prefix)
        new.sort(key=lambda folder: folder.step)
        for step in sorted({upload.step for upload in uploads if upload.kind == "output"}):
            new += self._newly_whole("output", step, uploads)
        return new

    def _best(self, newest: int) -> int:
        """The checkpoint with the lowest evaluation loss, as the newest one says; 0 when it does not."""
        try:
            return wire.best_checkpoint_in(self.store.get(f"{self._place('checkpoint', newest)}/{wire.STATE_FILE}"))
        except NoSuchObject:
            return 0

    def _newly_whole(self, kind: Kind, step: int, uploads: Sequence[_Upload]) -> list[StoredFolder]:
        folder = self._put_together([upload for upload in uploads if (upload.kind, upload.step) == (kind, step)])
        return [] if folder is None else [folder]

    def _uploads(self) -> list[_Upload]:
        """Every index that a machine has written. One that arrived altered is none: its machine, which reads it back,
        writes it again, and if it is gone, that upload was never finished. Raises HostError for one of a later version.
        """
        uploads = []
        for found in list(self.store.objects(f"{self.prefix}/{INCOMING}/")):
            folder, _, name = found.key.rpartition("/")
            if not name.startswith("index-"):
                continue
            try:
                raw = self.store.get(found.key)
            except NoSuchObject:
                continue
            if raw == wire.RETIRED:
                continue
            with understood(f"{found.key} in {self.store.url}"):
                try:
                    index = wire.loads(wire.UploadIndex, raw)
                    uploads.append(_Upload(found.key, folder, raw, index, index.read_manifest()))
                except wire.NewerProtocol:
                    raise
                except wire.WireError:
                    continue
        return uploads

    def _put_together(self, uploads: Sequence[_Upload]) -> StoredFolder | None:
        """Of one kind and step; two machines may each have made it. None when one of them is there already, or when
        none is whole: a machine may be overwriting it.
        """
        mark = f"{self._place(uploads[0].kind, uploads[0].step)}/{wire.MANIFEST_NAME}"
        try:
            if self.store.get(mark) in [upload.index.manifest.encode() for upload in uploads]:
                return None
        except NoSuchObject:
            pass
        for upload in reversed(uploads):
            if (folder := self._composed(upload, mark)) is not None:
                return folder
        return None

    def _composed(self, upload: _Upload, mark: str) -> StoredFolder | None:
        prefix = self._place(upload.kind, upload.step)
        try:
            parts = [[self._chunk(upload, chunk) for chunk in chunks] for chunks in upload.index.files]
            self.store.delete([mark])  # of an earlier machine's, at the same step, now that this one is all there
            for entry, sources in zip(upload.manifest.files, parts, strict=True):
                if sources:
                    self.store.compose(f"{prefix}/{entry.path}", sources)
                else:
                    self.store.put(f"{prefix}/{entry.path}", b"")
            # The machine overwrites an index before it uses its chunks again: unchanged, so are they.
            if self.store.get(upload.key) != upload.raw:
                return None
        except (NoSuchObject, ObjectChanged):
            return None
        self.store.put(mark, upload.index.manifest.encode())
        return StoredFolder(upload.kind, upload.step, prefix, upload.manifest)

    def _chunk(self, upload: _Upload, chunk: wire.UploadedChunk) -> StoredObject:
        key = f"{upload.folder}/{chunk_name(chunk.number)}"
        found = self.store.head(key)
        if found is None or found.bytes != chunk.bytes:
            raise ObjectChanged(f"{key} in {self.store.url} is no longer what it was")
        return found

    def _place(self, kind: Kind, step: int) -> str:
        return f"{self.prefix}/{wire.OUTPUT_FOLDER if kind == 'output' else wire.checkpoint_folder(step)}"

    def add(self, kind: Kind, folder: Path) -> None:
        """Copies a committed folder of this machine into the store, the manifest last. Twice is safe."""
        raw = (folder / wire.MANIFEST_NAME).read_bytes()
        manifest = wire.Manifest.from_bytes(raw)
        prefix = self._place(kind, manifest.step)
        mark = f"{prefix}/{wire.MANIFEST_NAME}"
        found = self._folder(kind, prefix)
        if found is not None and found.manifest == manifest:
            return
        self.store.delete([mark])
        for entry in manifest.files:
            self.store.put_file(f"{prefix}/{entry.path}", folder / entry.path)
        self.store.put(mark, raw)

    # ---- tidying ---------------------------------------------------------------------------------------------------

    def clear_incoming(self) -> None:
        """When no machine uploads any more and `settle` has put together what there was.

        Unfinished writes are ended for all runs: the laptop that began one may not look at its run again.
        """
        self._remove(f"{self.prefix}/{INCOMING}")
        self.store.abort_stale(f"{RUNS}/", STALE_MULTIPART_S)

    def _remove(self, prefix: str) -> None:
        """The manifest first: half removed is not there."""
        keys = [found.key for found in self.store.objects(f"{prefix}/")]
        marks = [key for key in keys if key.endswith(f"/{wire.MANIFEST_NAME}")]
        self.store.delete(marks)
        self.store.delete([key for key in keys if key not in marks])


@dataclass(frozen=True)
class _Upload:
    key: str
    """Of the index."""
    folder: str
    raw: bytes
    index: wire.UploadIndex
    manifest: wire.Manifest

    @property
    def kind(self) -> Kind:
        return self.index.kind

    @property
    def step(self) -> int:
        return self.manifest.step


def retained(steps: Collection[int], keep_last: int, keep_every: int) -> set[int]:
    """Which checkpoints stay: the newest `keep_last`, and each whose step is a multiple of `keep_every` (0: none)."""
    newest = sorted(steps)[-keep_last:]
    return {*newest, *(step for step in steps if keep_every and step % keep_every == 0)}


def runs_in(store: ObjectStore) -> list[str]:
    """The names of the runs that have a record in the store."""
    keys: Iterable[str] = (found.key for found in store.objects(f"{RUNS}/"))
    return sorted({key.split("/")[1] for key in keys if key.count("/") == 2 and key.endswith("/run.json")})


def run_address(url: str) -> tuple[str, str]:
    """`s3://bucket/prefix/runs/NAME` as the store's address and NAME. Raises StorageError for anything else."""
    root, slashes, name = url.rstrip("/").rpartition(f"/{RUNS}/")
    if not slashes or not name or "/" in name:
        raise StorageError(
            f"{url} is not the address of a run in a store", f"it ends in /{RUNS}/NAME: s3://bucket/prefix/{RUNS}/NAME"
        )
    return root, name
