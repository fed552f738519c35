"""Brings what is committed on this machine into the store, with nothing but lent URLs. Standard library only, 3.9.

One call is one short-lived child of the supervisor: it uploads the output, or else the newest checkpoint, unless the
store has it, and ends. Killed at any line, the next one goes on: confirmed chunks are not sent again.
The index is written when every chunk is there and every file was read as its manifest says; then it is read back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from . import run_folder as folders
from . import wire
from .deadline import HERE, Clocks
from .errors import TrainingFailed
from .lent_object import Content, Damaged, LentObjects, Refused, UploadFailed
from .upload_grant import HeldGrant, held_grant
from .upload_ring import Journal, Slot, in_store, place, read_ring, with_committed, write_ring

LOCK_FILE = "upload.lock"
THREADS = 4
READ_BYTES = 1 << 20
PROBE_ATTEMPTS = 6
NOT_ALL_EXIT = 3
"""Exit code of an uploader that could not bring everything."""
STAYS = "it stays on the machine for the laptop"

Emit = Callable[[wire.Event], None]
Connect = Callable[[Optional[wire.StoreKeys]], LentObjects]


def bring_up_to_date(
    run_folder: Path, emit: Emit, connect: Connect = LentObjects, *, clocks: Clocks = HERE, threads: int = THREADS
) -> bool:
    """Whether the store has what counts: the output, or before there is one the newest checkpoint.

    Emits `uploaded` for what it brought there, and a warning for what it could not. Never raises for the store.
    """
    while True:
        artifact = newest_artifact(run_folder)
        if artifact is None or artifact.manifest_sha256 in in_store(run_folder):
            return True
        held = held_grant(run_folder, clocks)
        if held is None:
            return False
        try:
            with contextlib.ExitStack() as opened:
                if not _upload(run_folder, held, clocks, artifact, opened, emit, connect, threads):
                    return False
        except FileNotFoundError:  # pruned before it was opened: there is a newer one
            after = newest_artifact(run_folder)
            if after == artifact:
                emit(wire.Warned(f"{artifact.folder} is incomplete on the machine's disk and was not uploaded"))
                return False


def require_reachable_store(
    run_folder: Path,
    attempts: int = PROBE_ATTEMPTS,
    connect: Callable[[Optional[wire.StoreKeys], int], LentObjects] = LentObjects,
    clocks: Clocks = HERE,
) -> None:
    """Writes and reads a few bytes, to learn before training whether this machine reaches the store.

    Blocks up to a quarter of a minute for one that does not answer at all, with the usual `attempts`. Raises
    TrainingFailed. Without a grant there is nothing to reach.
    """
    held = held_grant(run_folder, clocks)
    if held is None:
        return
    objects = connect(held.grant.keys, attempts)
    content = os.urandom(16).hex().encode()
    try:
        objects.put(held.grant.probe.put, Content.of(content))
        if objects.get(held.grant.probe.get) != content:
            raise Damaged("it gave back other bytes than it was given")
    except UploadFailed as error:
        remedy = (
            "it was reached and says no: the keys must be allowed to put and get below storage.url, and the laptop's "
            "clock must be right"
            if isinstance(error, Refused)
            else "storage.endpoint_url must be an address that the machine reaches, not one of the laptop's own network"
        )
        raise TrainingFailed(
            "storage", f"this machine cannot use the store: {error}", f"{remedy}; then `cloudbooth resume RUN`"
        ) from None
    finally:
        objects.close()


@dataclass(frozen=True)
class Artifact:
    """A committed folder, as far as an upload needs to know it."""

    kind: str
    step: int
    folder: str
    manifest_sha256: str

    @property
    def name(self) -> str:
        return "the model" if self.kind == "output" else f"the checkpoint of step {self.step}"


def newest_artifact(run_folder: Path) -> Optional[Artifact]:
    """What counts: the output, or before there is one the newest checkpoint."""
    output = folders.committed(run_folder, wire.OUTPUT_FOLDER)
    if output is not None:
        return Artifact("output", output.step, output.folder, output.manifest_sha256)
    for checkpoint in folders.committed_checkpoints(run_folder)[-1:]:
        return Artifact("checkpoint", checkpoint.step, checkpoint.folder, checkpoint.manifest_sha256)
    return None


def _upload(
    run_folder: Path,
    held: HeldGrant,
    clocks: Clocks,
    artifact: Artifact,
    opened: contextlib.ExitStack,
    emit: Emit,
    connect: Connect,
    threads: int,
) -> bool:
    """Raises FileNotFoundError when a file of the artifact is gone already."""
    grant = held.grant
    raw = (run_folder / artifact.folder / wire.MANIFEST_NAME).read_bytes()
    manifest = wire.Manifest.from_bytes(raw)
    # Open files can be read to their end although the trainer prunes them meanwhile.
    files = [opened.enter_context(open(run_folder / artifact.folder / entry.path, "rb")) for entry in manifest.files]
    ring = read_ring(run_folder, grant.id)
    if held.left_s(clocks) <= 0:
        emit(_warning(artifact, "what the laptop lent for uploads has expired"))
        return False
    needed = sum(_chunk_count(entry.bytes, grant.chunk_bytes) for entry in manifest.files)
    placement = place(
        ring, artifact.kind, artifact.step, artifact.manifest_sha256, needed, len(grant.chunks), len(grant.indexes),
        _best_step(run_folder / artifact.folder),
    )  # fmt: skip
    if placement is None:
        if artifact.manifest_sha256 not in ring.refused:
            write_ring(run_folder, grant.id, replace(ring, refused=(*ring.refused, artifact.manifest_sha256)))
            emit(_warning(artifact, f"it is larger ({manifest.total_bytes / 1e9:.2f} GB) than what was foreseen"))
        return False
    slot = placement.slot
    objects = connect(grant.keys)
    try:
        for index in placement.retired:
            objects.put(grant.indexes[index].put, Content.of(wire.RETIRED))
        write_ring(run_folder, grant.id, placement.ring)
        journal = Journal(run_folder, grant.id, slot)
        chunks = _send_all(grant, slot, manifest, [file.fileno() for file in files], journal, connect, threads)
        content = wire.dumps(wire.UploadIndex(artifact.kind, raw.decode(), chunks))  # type: ignore[arg-type]  # Literal
        objects.put(grant.indexes[slot.index].put, Content.of(content))
        if objects.get(grant.indexes[slot.index].get) != content:
            raise Damaged("the index that was read back is not the one that was written")
    except UploadFailed as error:
        expired = isinstance(error, Refused) and held.left_s(clocks) < 60
        emit(_warning(artifact, "what the laptop lent for uploads has expired" if expired else str(error)))
        return False
    finally:
        objects.close()
    write_ring(run_folder, grant.id, with_committed(placement.ring, slot))
    journal.remove()
    emit(wire.Uploaded(artifact.step, artifact.manifest_sha256))
    return True


def _best_step(checkpoint: Path) -> int:
    """As the checkpoint tells; 0 for what is none."""
    try:
        return wire.best_checkpoint_in((checkpoint / wire.STATE_FILE).read_bytes())
    except OSError:
        return 0


def _warning(artifact: Artifact, why: str) -> wire.Warned:
    return wire.Warned(
        f"{artifact.name} was not uploaded: {why}; {STAYS}",
        "`cloudbooth attach RUN` brings it home and lends anew",
    )


def _chunk_count(size: int, chunk_bytes: int) -> int:
    return -(-size // chunk_bytes)


@dataclass(frozen=True)
class _Piece:
    """One chunk of one file, and the object it goes into."""

    file: int
    number: int
    offset: int
    bytes: int


def _pieces(manifest: wire.Manifest, chunk_bytes: int, numbers: tuple[int, ...]) -> list[_Piece]:
    pieces = []
    free = iter(numbers)
    for file, entry in enumerate(manifest.files):
        for offset in range(0, entry.bytes, chunk_bytes):
            pieces.append(_Piece(file, next(free), offset, min(chunk_bytes, entry.bytes - offset)))
    return pieces


def _send_all(
    grant: wire.UploadGrant,
    slot: Slot,
    manifest: wire.Manifest,
    descriptors: list[int],
    journal: Journal,
    connect: Connect,
    most_threads: int,
) -> tuple[tuple[wire.UploadedChunk, ...], ...]:
    """Sends what the journal does not have, several at a time, while this thread reads every file against its hash.

    Raises UploadFailed, the first of any thread.
    """
    pieces = _pieces(manifest, grant.chunk_bytes, slot.chunks)
    done = journal.chunks()
    waiting: queue.SimpleQueue[_Piece] = queue.SimpleQueue()
    for piece in pieces:
        if piece.number not in done:
            waiting.put(piece)
    failures: list[Exception] = []
    guard = threading.Lock()

    def work() -> None:
        objects = connect(grant.keys)
        try:
            while not failures:
                piece = waiting.get_nowait()
                chunk = _send(objects, grant.chunks[piece.number], piece, descriptors[piece.file])
                with guard:
                    journal.add(chunk)
                    done[piece.number] = chunk
        except queue.Empty:
            pass
        except Exception as error:
            failures.append(error)
        finally:
            objects.close()

    count = min(most_threads, len(pieces))
    threads = [threading.Thread(target=work, name=f"upload-{n}", daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    try:
        for entry, descriptor in zip(manifest.files, descriptors):
            if not failures and _sha256(descriptor, entry.bytes) != entry.sha256:
                failures.append(Damaged(f"{entry.path} is damaged on the machine's disk"))
    finally:
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    chunks = [(piece.file, done[piece.number]) for piece in pieces]
    return tuple(tuple(chunk for file, chunk in chunks if file == n) for n in range(len(manifest.files)))


def _send(objects: LentObjects, url: str, piece: _Piece, descriptor: int) -> wire.UploadedChunk:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    for block in _blocks(descriptor, piece.offset, piece.bytes):
        sha256.update(block)
        md5.update(block)
    objects.put(url, Content(lambda: _blocks(descriptor, piece.offset, piece.bytes), piece.bytes, md5.digest()))
    return wire.UploadedChunk(piece.number, piece.bytes, sha256.hexdigest())


def _sha256(descriptor: int, size: int) -> str:
    digest = hashlib.sha256()
    for block in _blocks(descriptor, 0, size):
        digest.update(block)
    return digest.hexdigest()


def _blocks(descriptor: int, offset: int, count: int) -> Iterator[bytes]:
    end = offset + count
    while offset < end:
        block = os.pread(descriptor, min(READ_BYTES, end - offset), offset)
        if not block:
            return  # shorter than its manifest says: the hash tells
        offset += len(block)
        yield block
