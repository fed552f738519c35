"""How long a person waits for `cloudbooth --help`, beside what Python itself takes.

pytest -m benchmark -s tests/benchmarks/test_startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROUNDS = 9
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "cloudbooth --help": [str(Path(sys.executable).with_name("cloudbooth")), "--help"],
}
MOST_TIMES_PYTHON = 12.0
"""A tripwire far above what is usual (5-8): one heavy import costs more than all the rest."""


@pytest.mark.benchmark
def test_help_starts_in_a_small_multiple_of_python_itself(capsys: pytest.CaptureFixture[str]) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS + 1):  # interleaved: whatever else the machine does meets both alike
        for name, argv in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}  # the first fills the caches
    python_s, help_s = medians.values()
    with capsys.disabled():
        print()
        for name, median in medians.items():
            print(f"{name:18} {1000 * median:6.0f} ms (median of {ROUNDS})")
        print(f"{'ratio':18} {help_s / python_s:6.1f}")
    assert help_s / python_s < MOST_TIMES_PYTHON
