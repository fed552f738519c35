"""Files are hashed while they arrive, in whatever order they do."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from orchestrator.transfer.chunks import Chunk, chunks_of, dealt_out
from orchestrator.transfer.hashing import Following
from remote_trainer import wire

CHUNK = 1000
CONTENT = random.Random(7).randbytes(9 * CHUNK + 17)
ENTRY = wire.FileEntry("weights", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def followed(folder: Path, chunks: list[Chunk], written: bytes = CONTENT) -> set[str]:
    """Writes the chunks in their order; the paths that were told to be right."""
    right: set[str] = set()
    with Following(chunks, lambda entry: folder / entry.path, right.add) as following:
        for chunk in chunks:
            path = folder / chunk.entry.path
            path.touch()
            with path.open("r+b") as handle:
                handle.seek(chunk.offset)
                handle.write(written[chunk.offset : chunk.offset + chunk.length])
            following.arrived(chunk)
    return right


@pytest.mark.parametrize("seed", range(5))
def test_a_file_whose_chunks_come_in_any_order_is_right(tmp_path: Path, seed: int) -> None:
    chunks = chunks_of(ENTRY, CHUNK)
    random.Random(seed).shuffle(chunks)
    assert followed(tmp_path, chunks) == {"weights"}


def test_what_was_there_before_is_hashed_along(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(CONTENT[: 4 * CHUNK])
    assert followed(tmp_path, chunks_of(ENTRY, CHUNK)[4:]) == {"weights"}


def test_one_wrong_byte_is_noticed(tmp_path: Path) -> None:
    wrong = bytearray(CONTENT)
    wrong[5 * CHUNK] ^= 1
    assert followed(tmp_path, chunks_of(ENTRY, CHUNK), bytes(wrong)) == set()


def test_a_file_that_lacks_a_chunk_is_not_right(tmp_path: Path) -> None:
    right: set[str] = set()
    chunks = chunks_of(ENTRY, CHUNK)
    (tmp_path / "weights").write_bytes(CONTENT)
    with Following(chunks, lambda entry: tmp_path / entry.path, right.add) as following:
        for chunk in chunks[1:]:
            following.arrived(chunk)
    assert right == set()


def test_an_empty_file_is_right(tmp_path: Path) -> None:
    empty = wire.FileEntry("empty", 0, hashlib.sha256().hexdigest())
    assert followed(tmp_path, chunks_of(empty, CHUNK)) == {"empty"}


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    chunks = chunks_of(ENTRY, CHUNK)
    with (
        pytest.raises(FileNotFoundError),
        Following(chunks, lambda entry: tmp_path / entry.path, lambda _path: None) as following,
    ):
        following.arrived(chunks[0])


def test_what_broke_the_transfer_is_raised_and_not_what_the_hash_found(tmp_path: Path) -> None:
    chunks = chunks_of(ENTRY, CHUNK)

    def broken() -> None:
        with Following(chunks, lambda entry: tmp_path / entry.path, lambda _path: None) as following:
            following.arrived(chunks[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()


@pytest.mark.parametrize(("count", "hands"), [(0, 2), (1, 2), (7, 2), (8, 4), (9, 4)])
def test_chunks_are_dealt_out_whole_and_in_turn(count: int, hands: int) -> None:
    chunks = [Chunk(ENTRY, n * CHUNK, CHUNK) for n in range(count)]
    dealt = dealt_out(chunks, hands)
    assert sorted(chunk.offset for chunk in dealt) == [chunk.offset for chunk in chunks]
    assert dealt[: -(-count // hands)] == chunks[::hands]
