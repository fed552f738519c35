"""Which objects of the lent pool an upload takes: decided as values, remembered on disk. Standard library only, 3.9.

Sizes are not known when the pool is lent, so artifacts have no fixed slots: one takes as many chunks as it needs, and
older artifacts make room. The newest one that is whole in the store never does: a pool that is too small for two
means an artifact that stays on this machine, not one that is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from . import run_folder as folders
from . import wire

UPLOADS_FOLDER = "uploads"


@dataclass(frozen=True)
class Slot:
    """One artifact in the pool, under way or whole."""

    index: int
    """In `UploadGrant.indexes`."""
    kind: str
    step: int
    manifest_sha256: str
    chunks: tuple[int, ...]
    """Numbers in `UploadGrant.chunks`."""
    committed: bool = False


@dataclass(frozen=True)
class Ring:
    """The use of one grant's pool. Oldest first."""

    slots: tuple[Slot, ...] = ()
    refused: tuple[str, ...] = ()
    """Manifests that were found not to fit: said once, not tried again."""


@dataclass(frozen=True)
class Placement:
    ring: Ring
    slot: Slot
    retired: tuple[int, ...]
    """Indexes to overwrite before any chunk is: whoever reads them must not find other bytes behind them."""


def place(
    ring: Ring,
    kind: str,
    step: int,
    manifest_sha256: str,
    needed: int,
    pool_chunks: int,
    pool_indexes: int,
    best: int = 0,
) -> Optional[Placement]:
    """Room for `needed` chunks, by letting go of what is oldest, and of the checkpoint of step `best` last; None when
    there cannot be enough.

    An upload of this very artifact that was interrupted goes on where it was.
    """
    for slot in ring.slots:
        if slot.manifest_sha256 == manifest_sha256 and len(slot.chunks) == needed and not slot.committed:
            return Placement(ring, slot, ())
    committed = [slot for slot in ring.slots if slot.committed]
    keep = {id(slot) for slot in committed[-1:]} | {id(slot) for slot in committed if slot.kind == "output"}
    leaving = [slot for slot in ring.slots if id(slot) not in keep]
    # First what was never finished; the sort is stable.
    leaving.sort(key=lambda slot: (slot.committed, slot.committed and slot.step == best))
    staying = list(ring.slots)
    retired = []
    while True:
        chunks = _free(pool_chunks, [number for slot in staying for number in slot.chunks])
        indexes = _free(pool_indexes, [slot.index for slot in staying])
        if len(chunks) >= needed and indexes:
            break
        if not leaving:
            return None
        gone = leaving.pop(0)
        staying.remove(gone)
        retired.append(gone.index)  # an unfinished one too: killed after its index was written, it looks whole
    slot = Slot(indexes[0], kind, step, manifest_sha256, tuple(chunks[:needed]))
    return Placement(replace(ring, slots=(*staying, slot)), slot, tuple(retired))


def with_committed(ring: Ring, slot: Slot) -> Ring:
    """The artifact of `slot` is whole in the store, and from now on the newest."""
    others = tuple(other for other in ring.slots if other.index != slot.index)
    return replace(ring, slots=(*others, replace(slot, committed=True)))


def _free(count: int, used: list[int]) -> list[int]:
    taken = set(used)
    return [number for number in range(count) if number not in taken]


# ---- on disk -------------------------------------------------------------------------------------------------------


def read_ring(run_folder: Path, grant_id: str) -> Ring:
    try:
        return wire.loads(Ring, _ring_file(run_folder, grant_id).read_bytes())
    except (OSError, wire.WireError):
        return Ring()


def write_ring(run_folder: Path, grant_id: str, ring: Ring) -> None:
    path = _ring_file(run_folder, grant_id)
    path.parent.mkdir(exist_ok=True)
    folders.write_atomically(path, wire.dumps(ring))


def in_store(run_folder: Path) -> frozenset[str]:
    """The manifests (by sha256) of all that is whole in the store and verified there."""
    return frozenset(
        slot.manifest_sha256
        for path in (run_folder / UPLOADS_FOLDER).glob("*.json")
        for slot in read_ring(run_folder, path.stem).slots
        if slot.committed
    )


class Journal:
    """The chunks of one upload that the store has confirmed: what a killed uploader need not send again."""

    def __init__(self, run_folder: Path, grant_id: str, slot: Slot) -> None:
        name = f"{grant_id}-{slot.index}-{slot.manifest_sha256[:12]}.done"
        self._path = run_folder / UPLOADS_FOLDER / name

    def chunks(self) -> dict[int, wire.UploadedChunk]:
        return {chunk.number: chunk for chunk in self._read()}

    def add(self, chunk: wire.UploadedChunk) -> None:
        """One write of one line: safe from several threads."""
        with open(self._path, "ab", buffering=0) as handle:
            handle.write(f"{chunk.number} {chunk.bytes} {chunk.sha256}\n".encode())

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def _read(self) -> Iterator[wire.UploadedChunk]:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        for line in content[: content.rfind(b"\n") + 1].decode().splitlines():
            number, size, sha256 = line.split(" ")
            yield wire.UploadedChunk(int(number), int(size), sha256)


def _ring_file(run_folder: Path, grant_id: str) -> Path:
    return run_folder / UPLOADS_FOLDER / f"{grant_id}.json"
