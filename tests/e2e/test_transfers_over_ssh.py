"""Files to and from a real SSH server, over several connections that break, stall and are refused."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path

import pytest

from orchestrator.checksum import sha256_of
from orchestrator.fetch import fetch_files
from orchestrator.ssh.host import SshHost
from orchestrator.transfer import sending
from providers.api import SshAccess
from remote_trainer import wire
from tests.e2e.killing import MIB, End, Way, killed_transfer, make_file, open_run
from tests.fakes.flipping_proxy import flipping_proxy
from tests.fakes.sshd import Sshd

SIZE = 32 * MIB
"""Enough for four connections."""
KILLED_SIZE = 64 * MIB
"""Twice what two kills may cost."""


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("end", ["laptop", "connections"])
def test_a_killed_transfer_goes_on_where_it_was(
    sshd: Sshd, ssh_access: SshAccess, tmp_path: Path, way: Way, end: End
) -> None:
    outcome = killed_transfer(sshd, ssh_access, tmp_path, way, end, KILLED_SIZE, 2, random.Random(5))
    assert outcome.is_identical
    assert outcome.kills >= 1, "the second may come when everything is there already"
    assert outcome.again_bytes <= outcome.allowed_bytes


class NearHost(SshHost):
    """Is told how far it is: what a busy machine would measure is another matter."""

    def round_trip_s(self) -> float:
        return 0.0005


class FarHost(NearHost):
    def round_trip_s(self) -> float:
        return 0.08


@pytest.mark.parametrize(("host", "connections"), [(NearHost, 1), (FarHost, 4)])
def test_a_large_file_comes_over_as_many_connections_as_its_way_can_use(
    sshd: Sshd, ssh_access: SshAccess, tmp_path: Path, host: type[NearHost], connections: int
) -> None:
    near = open_run(ssh_access)
    entry = make_file(Path(near.folder) / "x" / "weights", SIZE)
    logins = sshd.log.count("Accepted publickey")
    run = near.over(host(ssh_access))
    fetch_files(run, "x", [entry], tmp_path / "here", lambda _count: None)
    assert sha256_of(tmp_path / "here" / "weights") == entry.sha256
    assert sshd.log.count("Accepted publickey") == logins + connections
    for each in (near, run):
        each.host.close()


def test_progress_and_what_it_raises_stay_in_the_thread_that_asked(ssh_access: SshAccess, tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    threads: set[threading.Thread] = set()

    def enough(count: int) -> None:
        threads.add(threading.current_thread())
        if count > 0:
            raise Enough

    run = open_run(ssh_access)
    entry = make_file(tmp_path / "base" / "weights", SIZE)
    with pytest.raises(Enough):
        sending.upload(run, f"{run.workdir}/bases/b", tmp_path / "base", [entry], enough)
    assert threads == {threading.current_thread()}
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("transfer-")] == []
    assert run.missing(f"{run.workdir}/bases/b", [entry]) == [entry], "and the host can be asked again"
    run.host.close()


class RefusedTwins(SshHost):
    """A server that lets in one connection of ours and no further."""

    def twin(self) -> SshHost:
        assert self.access.user is not None
        return SshHost(SshAccess(**{**vars(self.access), "user": "nobody-by-this-name"}))


def test_a_server_that_refuses_further_connections_is_used_over_the_first(
    ssh_access: SshAccess, tmp_path: Path
) -> None:
    run = open_run(ssh_access).over(RefusedTwins(ssh_access))
    entry = make_file(Path(run.folder) / "x" / "weights", SIZE)
    fetch_files(run, "x", [entry], tmp_path / "here", lambda _count: None)
    assert (tmp_path / "here" / "weights").stat().st_size == SIZE
    run.host.close()


def test_a_connection_that_falls_silent_is_replaced(sshd: Sshd, ssh_access: SshAccess, tmp_path: Path) -> None:
    run = open_run(ssh_access)
    run.stall_s = 1.0
    entry = make_file(Path(run.folder) / "x" / "weights", SIZE)
    frozen: list[int] = []

    def freeze_once(count: int) -> None:
        if count > 0 and not frozen:
            frozen.extend(sshd.freeze_connections())

    try:
        fetch_files(run, "x", [entry], tmp_path / "here", freeze_once)
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGKILL)
    assert frozen
    assert (tmp_path / "here" / "weights").stat().st_size == SIZE
    run.host.close()


def test_many_small_files_come_and_go_whole(ssh_access: SshAccess, tmp_path: Path) -> None:
    run = open_run(ssh_access)
    entries: list[wire.FileEntry] = [make_file(tmp_path / "photos" / f"{n:02}", MIB // 2) for n in range(40)]
    sending.upload(run, f"{run.folder}/x", tmp_path / "photos", entries, lambda _count: None)
    assert run.missing(f"{run.folder}/x", entries) == []
    fetch_files(run, "x", entries, tmp_path / "back", lambda _count: None)
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == [entry.path for entry in entries]
    run.host.close()


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_byte_changed_on_the_wire_is_noticed_and_its_chunk_sent_again(
    sshd: Sshd, ssh_access: SshAccess, tmp_path: Path, way: Way
) -> None:
    run = open_run(ssh_access)
    there, here = Path(run.folder) / "x", tmp_path / "here"
    entry = make_file((here if way == "up" else there) / "weights", SIZE)
    run.host.close()
    with flipping_proxy(sshd.port, way, SIZE // 4) as proxy:
        wire_access = SshAccess(**{**vars(ssh_access), "port": proxy.port, "host_key": sshd.host_keys[0]})
        over_the_wire = run.over(SshHost(wire_access))
        if way == "up":
            sending.upload(over_the_wire, str(there), here, [entry], lambda _count: None)
        else:
            fetch_files(over_the_wire, "x", [entry], here, lambda _count: None)
        over_the_wire.host.close()
        assert proxy.flipped.is_set()
    assert sha256_of(there / "weights") == sha256_of(here / "weights") == entry.sha256
