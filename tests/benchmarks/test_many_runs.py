"""What a laptop spends on 50 runs that it follows over SSH: memory, each page counted once, and processor time.

pytest -m benchmark -s tests/benchmarks/test_many_runs.py

The SSH server is real, and each run has a connection, a thread and an agent over there; only the supervisors are one
small process, which tells a step of each run every second. What runs over there counts for nothing.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from orchestrator.cli.carriers import HandedOver, hand_over
from orchestrator.home import Home
from orchestrator.mirror import progress_of_run
from orchestrator.wiring import wire_up
from providers.api import SshAccess
from tests.e2e.command import wait_until
from tests.fakes.followed_runs import at_work, record_training
from tests.fakes.photos import photo_folder

RUNS = int(os.environ.get("CLOUDBOOTH_BENCHMARK_RUNS", "50"))
MEASURED_S = 20.0
MOST_MB = 600.0


def pss_mb(pid: int) -> float:
    """Proportional set size: a page that several processes share is divided by their number."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    [pss_kb] = [int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")]
    return pss_kb * 1024 / 1e6


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.benchmark
@pytest.mark.sshd
def test_fifty_runs_are_followed_in_600_mb(
    ssh_access: SshAccess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, photos, workdir = Home.of_environment(), photo_folder(tmp_path / "photos"), tmp_path / "work"
    access = SshAccess(ssh_access.host, ssh_access.port, ssh_access.user, workdir=str(workdir), python="python3")
    names = [f"run-{number:02d}" for number in range(RUNS)]
    folders = [workdir / "runs" / record_training(home, name, access, photos) for name in names]
    wiring = wire_up()
    with at_work(folders):
        started_at = time.monotonic()
        handed = hand_over(wiring, names)
        pid = handed.pid
        assert pid > 0, "zero would be all of us"
        try:
            assert handed == HandedOver(pid)
            taken_s = time.monotonic() - started_at
            wait_until(lambda: all(progress_of_run(home.run(name)).step for name in names), "all are followed", 300)
            before_s, began_at = cpu_s(pid), time.monotonic()
            steps = [progress_of_run(home.run(name)).step for name in names]
            time.sleep(MEASURED_S)
            minutes = (time.monotonic() - began_at) / 60
            spent_s, used_mb = cpu_s(pid) - before_s, pss_mb(pid)
            threads, files = (len(list(Path(f"/proc/{pid}/{what}").iterdir())) for what in ("task", "fd"))
            moved = [progress_of_run(home.run(name)).step - step for name, step in zip(names, steps, strict=True)]
        finally:
            os.kill(pid, signal.SIGKILL)
    with capsys.disabled():
        print(
            f"\n{RUNS} runs over sshd, one process: {used_mb:.0f} MB PSS, {spent_s / minutes:.1f} s of the processor a "
            f"minute, {threads} threads, {files} open files; taken up in {taken_s:.1f} s; {min(moved)} to {max(moved)} "
            f"steps of each in {60 * minutes:.0f} s; load {os.getloadavg()[0]:.1f}"
        )
    assert min(moved) > 0
    assert used_mb < MOST_MB
