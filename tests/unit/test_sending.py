"""Sending files to the real agent on this machine: counted, verified, continued, refused."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.code_bundle import trainer_code
from orchestrator.host import Completed, ConnectionLost, HostError
from orchestrator.remote_run import RemoteRun, probe, unpack_code
from orchestrator.this_machine import LocalHost
from orchestrator.transfer.sending import PIECE_BYTES, upload
from providers.api import ThisMachine
from remote_trainer import wire

CHUNK = 1 << 18
WEIGHTS = b"".join(bytes([n % 251]) * 8192 for n in range(256))
SMALL = b"{}"


class Counted:
    def __init__(self) -> None:
        self.counts: list[int] = []

    @property
    def bytes(self) -> int:
        return sum(self.counts)

    def __call__(self, count: int) -> None:
        self.counts.append(count)


class _Enough(Exception):
    pass


class EndsAfter(Counted):
    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __call__(self, count: int) -> None:
        super().__call__(count)
        if self.bytes >= self._most:
            raise _Enough


@pytest.fixture
def remote(tmp_path: Path) -> RemoteRun:
    host, access = LocalHost(), ThisMachine(python=sys.executable, workdir=str(tmp_path / "work"))
    facts = probe(host, access, trainer_code())
    unpack_code(host, access, facts, trainer_code())
    return RemoteRun(host, access, facts.workdir, trainer_code().id, "robot", "robot", epoch=1)


@pytest.fixture
def root(remote: RemoteRun) -> str:
    return f"{remote.workdir}/bases/b"


@pytest.fixture
def base(tmp_path: Path) -> list[wire.FileEntry]:
    """Below `tmp_path/base`: two mebibytes of weights and a small file."""
    entries = []
    for name, content in (("unet/weights", WEIGHTS), ("z.json", SMALL)):
        (tmp_path / "base" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "base" / name).write_bytes(content)
        entries.append(wire.FileEntry(name, len(content), hashlib.sha256(content).hexdigest()))
    return entries


@pytest.mark.parametrize("chunk_bytes", [CHUNK, 1 << 23])
def test_files_arrive_under_their_names_and_are_counted_as_they_go(
    remote: RemoteRun, root: str, base: list[wire.FileEntry], tmp_path: Path, chunk_bytes: int
) -> None:
    counted = Counted()
    upload(remote, root, tmp_path / "base", base, counted, chunk_bytes=chunk_bytes)
    assert remote.missing(root, base) == []
    assert counted.bytes == len(WEIGHTS) + len(SMALL)
    assert max(counted.counts) <= PIECE_BYTES
    assert sorted(path.name for path in Path(root).rglob("*")) == ["unet", "weights", "z.json"]


def test_an_upload_ended_in_the_middle_leaves_no_half_file_under_its_name(
    remote: RemoteRun, root: str, base: list[wire.FileEntry], tmp_path: Path
) -> None:
    with pytest.raises(_Enough):
        upload(remote, root, tmp_path / "base", base, EndsAfter(1), chunk_bytes=CHUNK)
    assert remote.missing(root, base) == base


def test_a_large_file_is_continued_where_its_chunks_are_right(
    remote: RemoteRun, root: str, base: list[wire.FileEntry], tmp_path: Path
) -> None:
    arrived = Path(root) / wire.partial_name("unet/weights")
    arrived.parent.mkdir(parents=True)
    arrived.write_bytes(WEIGHTS[: 2 * CHUNK] + bytes(CHUNK) + b"\xff" * CHUNK + WEIGHTS[4 * CHUNK : 5 * CHUNK + 1])
    counted, found = Counted(), Counted()
    upload(remote, root, tmp_path / "base", base, counted, found, chunk_bytes=CHUNK)
    assert remote.missing(root, base) == []
    assert found.bytes == 3 * CHUNK
    assert counted.bytes == len(WEIGHTS) + len(SMALL) - found.bytes


def test_a_file_that_is_not_what_was_planned_is_refused(
    remote: RemoteRun, root: str, base: list[wire.FileEntry], tmp_path: Path
) -> None:
    (tmp_path / "base" / "unet" / "weights").write_bytes(WEIGHTS[:-1] + b"x")
    with pytest.raises(HostError, match="weights changed while it was being sent"):
        upload(remote, root, tmp_path / "base", base, Counted(), chunk_bytes=CHUNK)
    assert [entry.path for entry in remote.missing(root, base)] == ["unet/weights"]


def test_a_file_that_shrinks_while_it_is_sent_is_refused(
    remote: RemoteRun, root: str, base: list[wire.FileEntry], tmp_path: Path
) -> None:
    (tmp_path / "base" / "unet" / "weights").write_bytes(WEIGHTS[:-1])
    with pytest.raises(HostError, match="weights changed while it was being sent"):
        upload(remote, root, tmp_path / "base", base, Counted(), chunk_bytes=CHUNK)


def test_a_host_without_room_is_refused_before_a_byte_is_sent(remote: RemoteRun, root: str, tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as sparse:
        sparse.truncate(10**13)
    with pytest.raises(HostError, match=r"the disk of this machine is full \(10000\.00 GB needed, "):
        upload(remote, root, tmp_path, [wire.FileEntry("huge", 10**13, "0" * 64)], Counted(), chunk_bytes=10**13)
    assert not Path(root).exists()


class BreaksTwice(LocalHost):
    """The connection is lost in the middle of the first two streams; the command there sees the end of its input."""

    def __init__(self) -> None:
        self.losses = 2

    def send(self, argv: Sequence[str], chunks: Iterator[bytes], *, idle_timeout_s: float = 60.0) -> Completed:  # type: ignore[override]
        if self.losses == 0:
            return super().send(argv, chunks, idle_timeout_s=idle_timeout_s)
        self.losses -= 1
        super().send(argv, itertools.islice(chunks, 12), idle_timeout_s=idle_timeout_s)
        raise ConnectionLost("the cable was pulled")


@pytest.mark.parametrize("chunk_bytes", [CHUNK, 1 << 23])
def test_what_a_broken_stream_had_taken_is_asked_for_and_sent_again(
    remote: RemoteRun, root: str, base: list[wire.FileEntry], tmp_path: Path, chunk_bytes: int
) -> None:
    counted = Counted()
    upload(remote.over(BreaksTwice()), root, tmp_path / "base", base, counted, chunk_bytes=chunk_bytes)
    assert remote.missing(root, base) == []
    assert counted.bytes == len(WEIGHTS) + len(SMALL), "what was sent again is counted once"


class NeverListens(LocalHost):
    attempts = 0

    @contextmanager
    def receive(self, argv: Sequence[str], *, idle_timeout_s: float = 60.0) -> Iterator[Iterator[bytes]]:
        self.attempts += 1
        raise ConnectionLost("silence")
        yield iter(())


def test_a_connection_that_brings_nothing_is_made_a_few_times_and_then_given_up(
    remote: RemoteRun, tmp_path: Path
) -> None:
    from orchestrator.transfer.receiving import Arriving

    host = NeverListens()
    arriving = Arriving(remote.over(host), "output", tmp_path)
    with pytest.raises(ConnectionLost, match="silence"):
        arriving.bring(arriving.missing([wire.FileEntry("weights", 5, "0" * 64)]), Counted())
    assert host.attempts == 3
