"""How fast files cross, beside scp and rsync; what memory they take, and what kills cost.

pytest -m benchmark -s tests/benchmarks/test_transfer.py            (CLOUDBOOTH_BENCHMARK_ROUNDS=1 for a look)

Every rival uses aes128-gcm and a key, and moves the same files between the same folders; rounds are interleaved, so
that whatever else the machine does meets all alike. Files lie in memory where there is a RAM disk. Beside the rates
stand the processor seconds of both ends together for each GiB: they hardly change with what else the machine does.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.fetch import fetch_files
from orchestrator.remote_run import RemoteRun
from orchestrator.transfer.sending import upload
from providers.api import SshAccess
from remote_trainer import wire
from tests.benchmarks.far_link import FAR, far_link, missing
from tests.e2e.killing import MIB, End, Way, killed_transfer, make_file, open_run
from tests.fakes.sshd import Sshd, make_key, running_sshd

pytestmark = [pytest.mark.benchmark, pytest.mark.sshd]
ROUNDS = int(os.environ.get("CLOUDBOOTH_BENCHMARK_ROUNDS", "5"))
SCALE = float(os.environ.get("CLOUDBOOTH_BENCHMARK_SCALE", "1"))
"""Of the sizes: a smaller one for a look."""
FAR_MIB = int(os.environ.get("CLOUDBOOTH_BENCHMARK_FAR_MIB", str(int(256 * SCALE))))
FAR_PHOTOS = int(os.environ.get("CLOUDBOOTH_BENCHMARK_FAR_PHOTOS", str(int(300 * SCALE))))
"""Over the far link scp takes three minutes for 300."""
PHOTO_BYTES = 1_200_000
CIPHER = "aes128-gcm@openssh.com"
MOST_RSS_MB = 150


@dataclass(frozen=True)
class Arena:
    """One server, one run on it, and folders on both sides that hold the same files below `files`."""

    server: Sshd
    run: RemoteRun
    folder: Path

    def rivals(self, way: Way, entries: list[wire.FileEntry]) -> dict[str, Callable[[], None]]:
        """Each moves the files into an empty folder."""
        there, here = Path(self.run.folder) / "files", self.folder / "files"
        host = f"{self.server.access().user}@{self.server.address}"
        common = [f"-oUserKnownHostsFile={Path.home()}/.ssh/known_hosts", f"-i{Path.home()}/.ssh/id_ed25519"]
        common += ["-c", CIPHER, "-oBatchMode=yes"]
        shell = " ".join(["ssh", *common, "-p", str(self.server.port)])

        def ours() -> None:
            if way == "up":
                upload(self.run, f"{self.run.folder}/ours", here, entries, lambda _count: None)
            else:
                fetch_files(self.run, "files", entries, self.folder / "ours", lambda _count: None)

        def scp() -> None:
            source, target = (f"{here}", f"{host}:{self.run.folder}/scp")
            if way == "down":
                source, target = f"{host}:{there}", f"{self.folder}/scp"
            subprocess.run(["scp", "-q", "-r", *common, "-P", str(self.server.port), source, target], check=True)

        def rsync() -> None:
            source, target = (f"{here}/", f"{host}:{self.run.folder}/rsync/")
            if way == "down":
                source, target = f"{host}:{there}/", f"{self.folder}/rsync/"
            subprocess.run(["rsync", "-a", "--whole-file", "-e", shell, source, target], check=True)

        return {"cloudbooth": ours, "scp": scp, "rsync": rsync}

    def clear(self) -> None:
        for side in (self.folder, Path(self.run.folder)):
            for name in ("ours", "scp", "rsync"):
                shutil.rmtree(side / name, ignore_errors=True)

    def make(self, count: int, size: int) -> list[wire.FileEntry]:
        """Replaces the files on both sides."""
        there, here = Path(self.run.folder) / "files", self.folder / "files"
        for side in (there, here):
            shutil.rmtree(side, ignore_errors=True)
        entries = [make_file(here / f"{n:03}", size) for n in range(count)]
        shutil.copytree(here, there)
        return entries


def arena(server: Sshd, folder: Path) -> Arena:
    server.write_known_hosts(Path.home() / ".ssh" / "known_hosts")
    return Arena(server, open_run(server.access()), folder)


def compare(
    ground: Arena, what: str, way: Way, entries: list[wire.FileEntry], without: tuple[str, ...] = ()
) -> dict[str, float]:
    """Prints and returns the median MB/s of each rival."""
    total_bytes = sum(entry.bytes for entry in entries)
    rates: dict[str, list[float]] = {}
    processor: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, move in ground.rivals(way, entries).items():
            if name in without:
                continue
            ground.clear()
            used_s, started = processor_s(ground.server), time.perf_counter()
            move()
            rates.setdefault(name, []).append(total_bytes / 1e6 / (time.perf_counter() - started))
            used_s = processor_s(ground.server) - used_s
            processor.setdefault(name, []).append(used_s / total_bytes * 2**30)
    ground.clear()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    told = ", ".join(f"{name} {median:.1f}" for name, median in medians.items())
    used = ", ".join(f"{name} {statistics.median(values):.1f}" for name, values in processor.items())
    size, load = f"{len(entries)} × {entries[0].bytes / 1e6:.1f} MB", f"load {os.getloadavg()[0]:.1f}"
    print(f"\n{what} ({size}) {way}: {told} MB/s (medians of {ROUNDS}, {load}); processor s/GiB: {used}", flush=True)
    print(f"  each round: { ({name: [round(rate) for rate in values] for name, values in rates.items()}) }", flush=True)
    return medians


def processor_s(server: Sshd) -> float:
    """What this process, its children that ended, and the server with all of its logins have used so far."""
    ours = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return ours + server.processor_s()


def require(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"`{program}` is missing: apt-get install rsync openssh-client")


@pytest.mark.parametrize("way", ["up", "down"])
def test_beside_scp_where_the_processor_is_the_limit(sshd: Sshd, ram: Path, way: Way) -> None:
    require("scp")
    ground = arena_in(sshd, ram)
    large = compare(ground, "loopback, one file", way, ground.make(1, int(1024 * SCALE) * MIB), without=("rsync",))
    photos = compare(ground, "loopback, photos", way, ground.make(int(300 * SCALE), PHOTO_BYTES), without=("rsync",))
    ground.run.host.close()
    assert large["cloudbooth"] >= 0.8 * large["scp"]
    assert photos["cloudbooth"] >= 0.8 * photos["scp"]


def arena_in(server: Sshd, folder: Path) -> Arena:
    """With the server's home in `folder`, so that both sides are on one kind of disk."""
    (folder / "home").mkdir()
    server.home.rmdir()
    server.home.symlink_to(folder / "home")
    return arena(server, folder)


@pytest.mark.parametrize("way", ["up", "down"])
def test_beside_scp_and_rsync_over_a_far_link(isolated_home: Path, ram: Path, way: Way) -> None:
    """Round trip 80 ms, 200 Mbit/s, 0.1 % of packets lost."""
    require("scp", "rsync")
    if missing():
        pytest.skip(str(missing()))
    public = make_key(isolated_home / ".ssh" / "id_ed25519")
    with (
        far_link(round_trip_s=0.08, bytes_per_s=25e6, loss=0.001) as prefix,
        running_sshd(ram / "sshd", [public], address=FAR, prefix=prefix) as server,
    ):
        ground = arena(server, ram)
        large = compare(ground, "far, one file", way, ground.make(1, FAR_MIB * MIB))
        photos = compare(ground, "far, photos", way, ground.make(FAR_PHOTOS, PHOTO_BYTES), without=("rsync",))
        ground.run.host.close()
    assert large["cloudbooth"] >= 1.4 * max(large["scp"], large["rsync"])
    assert photos["cloudbooth"] >= 3 * photos["scp"]


@pytest.mark.parametrize("end", ["laptop", "connections"])
@pytest.mark.parametrize("way", ["up", "down"])
def test_twenty_kills_of_a_gibibyte_cost_a_chunk_for_each_stream_at_most(
    sshd: Sshd, ssh_access: SshAccess, ram: Path, way: Way, end: End
) -> None:
    (ram / "home").mkdir()
    sshd.home.rmdir()
    sshd.home.symlink_to(ram / "home")
    size = int(1024 * SCALE) * MIB
    outcome = killed_transfer(sshd, ssh_access, ram, way, end, size, 20, random.Random(20))
    again, allowed = outcome.again_bytes / MIB, outcome.allowed_bytes / MIB
    print(f"\n{way}, {outcome.kills} kills of the {end}: {again:.0f} MiB sent again, {allowed:.0f} allowed", flush=True)
    assert outcome.is_identical
    assert outcome.kills == 20
    assert again <= allowed


def test_no_download_loses_its_tail_where_paramiko_would_change_keys(ssh_access: SshAccess, ram: Path) -> None:
    """Paramiko's default is 512 MiB on one connection, and its change of keys may meet the end of the file."""
    run = open_run(ssh_access)
    (Path(run.folder) / "x").mkdir(parents=True)
    source = Path(run.folder) / "x" / "weights"
    entry = make_file(ram / "weights", 512 * MIB + MIB)
    source.symlink_to(ram / "weights")
    for _ in range(20):
        with run.read("x/weights") as pieces:  # the stream alone: chunks on two connections would stay below it
            assert sum(map(len, pieces)) == entry.bytes
    run.host.close()
    print("\n20 of 20 downloads across 512 MiB on one connection are whole", flush=True)


@pytest.mark.parametrize("way", ["up", "down"])
def test_memory_does_not_grow_with_the_file(sshd: Sshd, ssh_access: SshAccess, ram: Path, way: Way) -> None:
    """In a process of its own, whose peak is asked for at its end."""
    (ram / "home").mkdir()
    sshd.home.rmdir()
    sshd.home.symlink_to(ram / "home")
    size = int(8192 * SCALE) * MIB
    argv = [sys.executable, "-c", PEAK, str(size), way, str(ram), ssh_access.host, str(ssh_access.port)]
    argv += [ssh_access.user or "", ssh_access.workdir]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    peak_mb = int(done.stdout)
    print(f"\n{size / 2**30:.1f} GiB {way}: peak resident memory {peak_mb} MB", flush=True)
    assert peak_mb <= MOST_RSS_MB


PEAK = """
import sys
from pathlib import Path
from orchestrator.fetch import fetch_files
from orchestrator.transfer.sending import upload
from providers.api import SshAccess
from tests.e2e.killing import empty_file, open_run
size, way, ram, host, port, user, workdir = sys.argv[1:]
run = open_run(SshAccess(host, port=int(port), user=user, python=sys.executable, workdir=workdir))
if way == "up":
    entry = empty_file(Path(ram) / "here" / "weights", int(size))
    upload(run, run.folder + "/x", Path(ram) / "here", [entry], lambda n: None)
else:
    entry = empty_file(Path(run.folder) / "x" / "weights", int(size))
    fetch_files(run, "x", [entry], Path(ram) / "here", lambda n: None)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024 // 1_000_000)
"""
