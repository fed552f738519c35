"""The host's disk fills up while a run is at work there: other people use it too."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import EXECUTABLE, PATIENCE_S, Cloudbooth, processes_naming, wait_until

pytestmark = pytest.mark.skipif(
    subprocess.run(
        ["sh", "-c", "unshare -m sh -c 'mount -t tmpfs -o size=64k small /mnt'"], check=False, capture_output=True
    ).returncode
    != 0,
    reason="a small file system can only be mounted by root with unshare",
)

LARGE, SPARE_KB = "100g", 64
TRAINING = ("--steps", "250", "--set", "train.validate_every=0")
FIRST_AT_250 = ("--set", "train.checkpoint_every=250")
FIRST_AT_100 = ("--set", "train.checkpoint_every=100")
"""The checkpoint is the first thing after the first step that cannot do without the disk."""


class SmallDisk:
    """The file system that a driver and everything it starts have where the local machine keeps its runs."""

    def __init__(self, process: int, place: Path) -> None:
        self._process, self._place = process, place
        self._root = Path(f"/proc/{process}/root{place}")
        """How the file system, mounted for that process alone, is seen from here."""

    def fill(self) -> None:
        found = os.statvfs(self._root)
        used_kb = (found.f_blocks - found.f_bfree) * found.f_frsize // 1024
        self._resize(f"{used_kb + SPARE_KB}k")
        with contextlib.suppress(OSError), open(self._root / "somebody-elses", "wb", buffering=0) as handle:
            while handle.write(bytes(4096)):
                pass
        assert os.statvfs(self._root).f_bfree == 0

    def make_room(self) -> None:
        self._resize(LARGE)

    def types(self) -> list[str]:
        """Of the events in the run's log."""
        logs = [log.read_bytes().splitlines() for log in self._root.glob("runs/*/events.jsonl")]
        return [json.loads(line)["type"] for line in logs[0] if line.endswith(b"}")] if logs else []

    def _resize(self, size: str) -> None:
        remount = ["mount", "-o", f"remount,size={size}", str(self._place)]
        subprocess.run(["nsenter", "-t", str(self._process), "-m", *remount], check=True)


@contextlib.contextmanager
def launched(installation: Cloudbooth, *argv: str) -> Iterator[tuple[subprocess.Popen[str], SmallDisk]]:
    place = installation.root / "state" / "providers" / "local" / "host"
    place.mkdir(parents=True)
    script = f'mount -t tmpfs -o size={LARGE} small "$0" && exec "$@"'
    driver = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script, str(place), str(EXECUTABLE), *argv],
        env={**os.environ, "CLOUDBOOTH_HOME": str(installation.root / "state")}, cwd=installation.root,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield driver, SmallDisk(driver.pid, place)
    finally:
        driver.kill()
        driver.communicate()


def test_training_that_needs_no_disk_goes_on_while_it_is_full(cloudbooth: Cloudbooth) -> None:
    with launched(cloudbooth, *cloudbooth.launch_argv("robot", *TRAINING, *FIRST_AT_250)) as (driver, disk):
        wait_until(lambda: "step" in disk.types(), "the first step")
        disk.fill()
        time.sleep(2)  # ten events or so find no room
        disk.make_room()
        output, errors = driver.communicate(timeout=PATIENCE_S)
    assert (driver.returncode, errors) == (0, "")
    assert json.loads(output.splitlines()[-1])["reason"] == "done"
    events = [line for line in cloudbooth.events("robot") if line["type"] != "summary"]
    assert [event["seq"] for event in events] == list(range(len(events))), "an event was lost"
    assert [event["type"] for event in events].count("hello") == 1


def test_a_disk_that_stays_full_is_named(cloudbooth: Cloudbooth) -> None:
    with launched(cloudbooth, *cloudbooth.launch_argv("robot", *TRAINING, *FIRST_AT_100)) as (driver, disk):
        wait_until(lambda: "step" in disk.types(), "the first step")
        disk.fill()
        output, errors = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode != 0
    assert "disk" in errors + output.splitlines()[-1]
    assert "free some space" in errors + output.splitlines()[-1]
    assert processes_naming(str(cloudbooth.root)) == []
