"""How long after it was written on the machine an event is printed here, over a real SSH server.

pytest -m benchmark -s tests/benchmarks/test_event_latency.py

Machine and laptop are one here, so that both have one clock; the link has no latency of its own to add. On a terminal
the board is drawn four times a second, which adds an eighth of a second on average.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path

import pytest

from providers.api import SshAccess
from tests.e2e.command import Cloudbooth
from tests.fakes.sshd import Sshd

MOST_MEDIAN_S = 1.0


@pytest.mark.benchmark
@pytest.mark.sshd
def test_an_event_is_on_the_screen_within_a_second(
    sshd: Sshd, ssh_access: SshAccess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "installation").mkdir()
    machine = (
        "--host", f"{ssh_access.user}@{ssh_access.host}", "--set", f"compute.ssh.port={ssh_access.port}",
        "--set", f"compute.ssh.python={sys.executable}", "--set", f"compute.ssh.workdir={sshd.home}/work",
    )  # fmt: skip
    cloudbooth = Cloudbooth(tmp_path / "installation", machine)
    delays_s = []
    with cloudbooth.started(*cloudbooth.launch_argv("robot", "--steps", "60")) as driver:
        assert driver.stdout is not None
        for text in driver.stdout:
            now, line = time.time(), json.loads(text)
            if line["type"] == "event":
                delays_s.append(now - line["event"]["t"])
        assert driver.wait() == 0
    delays_s.sort()
    with capsys.disabled():
        print(
            f"\n{len(delays_s)} events over sshd: median {1000 * statistics.median(delays_s):.0f} ms, 95 % within "
            f"{1000 * delays_s[int(0.95 * len(delays_s))]:.0f} ms, load {os.getloadavg()[0]:.1f}"
        )
    assert statistics.median(delays_s) < MOST_MEDIAN_S
