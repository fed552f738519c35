"""Bringing a committed folder home from the real agent on this machine."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.code_bundle import trainer_code
from orchestrator.fetch import DamagedTransfer, disk_full_explained, fetch_folder, fetch_manifest, holds
from orchestrator.fetch_lock import fetching_alone
from orchestrator.host import Completed, HostError
from orchestrator.remote_run import RemoteRun, probe, require_success, unpack_code
from orchestrator.this_machine import LocalHost
from providers.api import ThisMachine
from providers.errors import CloudboothError
from remote_trainer import wire
from remote_trainer.commit import commit_folder, preparing
from tests.fakes.lock_holder import holding

FOLDER = "output"
CHUNK = 1 << 18
SMALL, BIG = b"a small file", b"".join(bytes([n % 251]) * 8192 for n in range(256))


class Arrived:
    """The bytes that crossed the wire."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, count: int) -> None:
        self.bytes += count


@pytest.fixture
def remote(tmp_path: Path) -> RemoteRun:
    """The agent of a run `robot` whose output holds `config.json` and `unet/weights`."""
    host, access = LocalHost(), ThisMachine(python=sys.executable, workdir=str(tmp_path / "work"))
    facts = probe(host, access, trainer_code())
    unpack_code(host, access, facts, trainer_code())
    run = RemoteRun(host, access, facts.workdir, trainer_code().id, "robot", "robot", epoch=1)
    target = Path(run.folder) / FOLDER
    with preparing(target) as prepared:
        (prepared / "unet").mkdir()
        (prepared / "config.json").write_bytes(SMALL)
        (prepared / "unet" / "weights").write_bytes(BIG)
        commit_folder(prepared, target, step=7)
    return run


@pytest.fixture
def manifest(remote: RemoteRun) -> wire.Manifest:
    return wire.Manifest.from_bytes((Path(remote.folder) / FOLDER / wire.MANIFEST_NAME).read_bytes())


def on_host(remote: RemoteRun, name: str) -> Path:
    return Path(remote.folder) / FOLDER / name


def test_a_folder_comes_home_whole_and_under_its_name_only(
    remote: RemoteRun, manifest: wire.Manifest, tmp_path: Path
) -> None:
    arrived = Arrived()
    fetch_folder(remote, FOLDER, manifest, tmp_path / "model", arrived)
    assert (tmp_path / "model" / "config.json").read_bytes() == SMALL
    assert (tmp_path / "model" / "unet" / "weights").read_bytes() == BIG
    assert holds(tmp_path / "model", manifest)
    assert arrived.bytes == len(SMALL) + len(BIG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "work"]


def test_a_second_fetch_asks_for_nothing(remote: RemoteRun, manifest: wire.Manifest, tmp_path: Path) -> None:
    fetch_folder(remote, FOLDER, manifest, tmp_path / "model", Arrived())
    on_host(remote, "config.json").unlink()
    arrived = Arrived()
    fetch_folder(remote, FOLDER, manifest, tmp_path / "model", arrived)
    assert arrived.bytes == 0


def begin_part(tmp_path: Path, content: bytes) -> None:
    part = tmp_path / ".model.part" / "unet" / "weights.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)


def test_whole_chunks_that_are_here_are_not_fetched_again(
    remote: RemoteRun, manifest: wire.Manifest, tmp_path: Path
) -> None:
    begin_part(tmp_path, BIG[: 3 * CHUNK + 1])
    arrived, found = Arrived(), Arrived()
    fetch_folder(remote, FOLDER, manifest, tmp_path / "model", arrived, found, CHUNK)
    assert (tmp_path / "model" / "unet" / "weights").read_bytes() == BIG
    assert found.bytes == 3 * CHUNK
    assert arrived.bytes == len(SMALL) + len(BIG) - found.bytes


def test_chunks_are_found_wherever_they_lie(remote: RemoteRun, manifest: wire.Manifest, tmp_path: Path) -> None:
    begin_part(tmp_path, bytes(CHUNK) + BIG[CHUNK : 2 * CHUNK] + bytes(CHUNK) + BIG[3 * CHUNK : 4 * CHUNK])
    found = Arrived()
    fetch_folder(remote, FOLDER, manifest, tmp_path / "model", Arrived(), found, CHUNK)
    assert (tmp_path / "model" / "unet" / "weights").read_bytes() == BIG
    assert found.bytes == 2 * CHUNK


def test_a_complete_part_is_only_verified(remote: RemoteRun, manifest: wire.Manifest, tmp_path: Path) -> None:
    begin_part(tmp_path, BIG)
    on_host(remote, "unet/weights").unlink()
    arrived = Arrived()
    fetch_folder(remote, FOLDER, manifest, tmp_path / "model", arrived)
    assert arrived.bytes == len(SMALL)


def test_a_damaged_chunk_of_a_part_is_fetched_anew_and_only_that(
    remote: RemoteRun, manifest: wire.Manifest, tmp_path: Path
) -> None:
    damaged = bytearray(BIG)
    damaged[5 * CHUNK + 7] ^= 1
    begin_part(tmp_path, bytes(damaged))
    arrived = Arrived()
    fetch_folder(remote, FOLDER, manifest, tmp_path / "model", arrived, chunk_bytes=CHUNK)
    assert (tmp_path / "model" / "unet" / "weights").read_bytes() == BIG
    assert arrived.bytes == len(SMALL) + CHUNK


class DamagesOnArrival(Arrived):
    """A disk that changes a byte of a part which has been written already."""

    def __init__(self, part: Path, at: int) -> None:
        super().__init__()
        self._part, self._at = part, at

    def __call__(self, count: int) -> None:
        super().__call__(count)
        if self._at >= 0 and self._part.exists() and self._part.stat().st_size > self._at:
            with self._part.open("r+b") as handle:
                handle.seek(self._at)
                handle.write(b"\xff")
            self._at = -1


@pytest.mark.parametrize("chunk", [1 << 18, 1 << 23])
def test_a_chunk_damaged_on_the_disk_while_others_arrive_is_found_and_fetched_again(
    remote: RemoteRun, manifest: wire.Manifest, tmp_path: Path, chunk: int
) -> None:
    part = tmp_path / ".model.part" / "unet" / "weights.part"
    arrived = DamagesOnArrival(part, at=100)
    fetch_folder(remote, FOLDER, manifest, tmp_path / "model", arrived, chunk_bytes=chunk)
    assert (tmp_path / "model" / "unet" / "weights").read_bytes() == BIG
    assert arrived.bytes == len(SMALL) + len(BIG), "what was thrown away is taken off again"


def test_a_part_longer_than_the_file_is_cut(remote: RemoteRun, manifest: wire.Manifest, tmp_path: Path) -> None:
    part = tmp_path / ".model.part" / "config.json.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" + SMALL + b"and more")
    fetch_folder(remote, FOLDER, manifest, tmp_path / "model", Arrived())
    assert (tmp_path / "model" / "config.json").read_bytes() == SMALL


def test_no_byte_is_fetched_onto_a_disk_without_room(remote: RemoteRun, tmp_path: Path) -> None:
    huge = wire.FileEntry("unet/weights", 10**15, "0" * 64)
    with pytest.raises(CloudboothError, match=r"this machine's disk is full: 1000000\.00 GB are to come, "):
        fetch_folder(remote, FOLDER, wire.Manifest(7, (huge,)), tmp_path / "model", Arrived(), chunk_bytes=10**15)
    assert list(tmp_path.rglob("weights.part")) == []


def test_a_file_damaged_at_its_source_is_refused_and_nothing_gets_its_name(
    remote: RemoteRun, manifest: wire.Manifest, tmp_path: Path
) -> None:
    on_host(remote, "unet/weights").write_bytes(b"\0" * len(BIG))
    with pytest.raises(DamagedTransfer, match="unet/weights arrived damaged twice"):
        fetch_folder(remote, FOLDER, manifest, tmp_path / "model", Arrived())
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / ".model.part" / "unet" / "weights").exists()


def test_a_file_missing_at_its_source_is_an_error_of_the_host(
    remote: RemoteRun, manifest: wire.Manifest, tmp_path: Path
) -> None:
    on_host(remote, "config.json").unlink()
    with pytest.raises(HostError, match="No such file"):
        fetch_folder(remote, FOLDER, manifest, tmp_path / "model", Arrived())
    assert not (tmp_path / "model").exists()


def test_a_manifest_other_than_the_announced_one_is_refused(remote: RemoteRun, manifest: wire.Manifest) -> None:
    assert fetch_manifest(remote, FOLDER, manifest.sha256) == manifest
    with pytest.raises(DamagedTransfer, match="the manifest of output is not the one the trainer announced"):
        fetch_manifest(remote, FOLDER, "0" * 64)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_its_folder(code: int, tmp_path: Path) -> None:
    with (
        pytest.raises(CloudboothError, match="this machine's disk is full") as caught,
        disk_full_explained(tmp_path, "go on"),
    ):
        raise OSError(code, "no space")
    assert caught.value.hint == "free some space, then go on"


def test_other_errors_of_the_system_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="broken"), disk_full_explained(tmp_path, "go on"):
        raise OSError(errno.EIO, "broken")


def test_a_full_disk_on_the_host_is_named_as_such() -> None:
    said = Completed(1, b"", b"Traceback\nOSError: [Errno 28] No space left on device: 'x'\n")
    with pytest.raises(HostError, match=r"the disk of this machine is full$"):
        require_success(said, LocalHost(), "`accept` failed", "look there")


def test_a_host_without_room_is_named_with_its_figures() -> None:
    said = Completed(1, b"", b"No space left on device: 6.94 GB needed, 1.20 GB free in /work\n")
    figures = r"the disk of this machine is full \(6\.94 GB needed, 1\.20 GB free in /work\)$"
    with pytest.raises(HostError, match=figures):
        require_success(said, LocalHost(), "`accept` failed", "look there")


def test_the_name_of_a_folder_is_given_when_all_of_it_is_on_the_disk(
    remote: RemoteRun, manifest: wire.Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    before_the_name: set[int] = set()
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real_fsync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        if target == tmp_path / "model":
            before_the_name.update(synced)
            synced.clear()
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    fetch_folder(remote, FOLDER, manifest, tmp_path / "model", Arrived())
    parts = [tmp_path / "model", *(tmp_path / "model").rglob("*")]
    assert {path.stat().st_ino for path in parts} <= before_the_name
    assert synced == [tmp_path.stat().st_ino], "and the name itself afterwards"


def test_a_hint_about_a_foreign_folder_quotes_its_path_and_names_the_run(
    remote: RemoteRun, manifest: wire.Manifest, tmp_path: Path
) -> None:
    target = tmp_path / "RUN it's here"
    target.mkdir()
    with pytest.raises(CloudboothError) as caught:
        fetch_folder(remote, FOLDER, manifest, target, Arrived())
    move, attach = caught.value.hint.split(" && ")
    subprocess.run(["sh", "-c", move], check=True)
    assert (tmp_path / "RUN it's here-before").is_dir()
    assert attach == "cloudbooth attach robot"


class EnoughWaited(Exception):
    pass


def test_two_processes_do_not_fetch_files_of_one_run_at_once(tmp_path: Path) -> None:
    def give_up() -> None:
        raise EnoughWaited

    with holding(tmp_path / "lock") as holder:
        with pytest.raises(EnoughWaited), fetching_alone(tmp_path / "lock", give_up):
            pytest.fail("both are inside")
        with fetching_alone(tmp_path / "lock", while_waiting=holder.kill):
            assert holder.wait(10) != 0, "a process that died has let go"
