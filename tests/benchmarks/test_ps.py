"""How long a person waits for `cloudbooth ps` with 1,000 runs of 400 steps each on record.

pytest -m benchmark -s tests/benchmarks/test_ps.py
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.home import Home
from orchestrator.ledger import Ledger
from orchestrator.lifecycle import EndReason, State
from remote_trainer import wire
from tests.unit.fake_clock import FakeClock

RUNS, ROUNDS = 1000, 7
EXECUTABLE = str(Path(sys.executable).with_name("cloudbooth"))
MOST_CPU_S = 0.6
"""A tripwire: what the processor does for it, which another program on the machine does not change much."""


@pytest.mark.benchmark
@pytest.mark.parametrize("argv", [["ps"], ["ps", "--json"]], ids=["table", "json"])
def test_a_thousand_runs_are_listed_at_once(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path)
    ledger = Ledger(home.ledger_file, FakeClock())
    log = b"".join(
        wire.encode_event(wire.StepDone(step, 400, 0.1, 1e-4, 3.0), step, float(step)) for step in range(1, 401)
    )
    for number in range(RUNS):
        name = f"run-{number:04d}"
        ledger.add_run(name, "local", "{}", " " * 10_000)
        epoch = ledger.become_driver(name)
        ledger.move(name, epoch, State.PLANNED, State.RELEASING, "over", EndReason.CANCELED)
        ledger.move(name, epoch, State.RELEASING, State.ENDED, "over")
        home.run(name).root.mkdir(parents=True)
        home.run(name).events("a").write_bytes(log)
    ledger.close()
    environ = {**os.environ, "CLOUDBOOTH_HOME": str(tmp_path)}
    wall_s, cpu_s = [], []
    for _ in range(ROUNDS):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([EXECUTABLE, *argv], env=environ, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall_s.append(time.perf_counter() - started)
        cpu_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    with capsys.disabled():
        print(
            f"\ncloudbooth {' '.join(argv)}, {RUNS} runs: {1000 * statistics.median(wall_s):.0f} ms, of them "
            f"{1000 * statistics.median(cpu_s):.0f} ms of the processor (medians), load {os.getloadavg()[0]:.1f}"
        )
    assert statistics.median(cpu_s) < MOST_CPU_S
