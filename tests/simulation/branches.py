"""Which branches of the code that decides are reached by simulated schedules: `make simulate-coverage`.

Every branch of the files below is reached by a schedule or by one of the tests in `ELSEWHERE`, which are played in the
same process and measured alike; what reached what is printed. Exit code 1 when a branch is reached by neither.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import coverage
import pytest

from tests.simulation.schedule import draw
from tests.simulation.world import play

DECIDING = (
    "orchestrator/driver.py", "orchestrator/lifecycle.py", "orchestrator/phases/*.py", "orchestrator/recovery.py",
    "orchestrator/latecomers.py", "remote_trainer/oversight.py", "remote_trainer/lease.py", "remote_trainer/tenancy.py",
)  # fmt: skip

ELSEWHERE: tuple[str, ...] = tuple(
    f"tests/unit/test_{name}.py"
    for name in (
        "boot", "hub_token", "keeping", "late_machines", "launch_flags", "lease", "lifecycle", "measured", "orphans",
        "out_of_sight", "over_unseen", "oversight", "own_machine", "pulling", "recovery", "remote_run", "rental",
        "rescue", "revival", "shipping", "slow_machine", "spot_record", "storage_phases", "storage_plan", "supervisor",
        "tenancy", "told_again", "traveling_base", "volume_folder", "volumes",
    )
)  # fmt: skip
"""Tests of what no schedule can: real locks and processes, bases in folders, volumes, providers without an ability."""

Branch = tuple[str, int, int]
"""File, the line it leaves, the line it goes to: negative for the way out of a function."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.branches", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    call = parser.parse_args(argv)
    by_schedules, possible = _measured(lambda: _play(call.first, call.seeds))
    print(f"{call.seeds} schedules reach {len(by_schedules)} of {len(possible)} branches")
    failed = False

    def play_tests() -> None:
        nonlocal failed
        failed = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--no-header", *ELSEWHERE]) != 0

    by_tests, _ = _measured(play_tests)
    rest = possible - by_schedules
    print(f"the tests named in {Path(__file__).name} reach {len(rest & by_tests)} of the other {len(rest)}:")
    for file, count in sorted(Counter(file for file, _, _ in rest & by_tests).items()):
        print(f"  {file}: {count}")
    unreached = sorted(rest - by_tests)
    for file, begin, end in unreached:
        print(f"{file}:{begin} -> {end}: {Path(file).read_text().splitlines()[begin - 1].strip()}")
    print(f"{len(unreached)} branches are reached by neither" + (", and a test has failed" if failed else ""))
    return 1 if unreached or failed else 0


def _play(first: int, seeds: int) -> None:
    for seed in range(first, first + seeds):
        play(draw(seed))


def _measured(action: Callable[[], None]) -> tuple[set[Branch], set[Branch]]:
    """What `action` reaches of the deciding code, and what there is. Nothing leads to `assert_never`, nor past the last
    case of the driver's match over every kind of step.
    """
    measured = coverage.Coverage(branch=True, include=list(DECIDING), data_file=None)
    measured.exclude(r"assert_never\(")
    measured.exclude(r"case Do\(phase\):", which="partial")
    measured.start()
    action()
    measured.stop()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        measured.json_report(outfile=str(report))
        files = json.loads(report.read_text())["files"]
    reached = {(name, *branch) for name, file in files.items() for branch in file["executed_branches"]}
    return reached, reached | {(name, *branch) for name, file in files.items() for branch in file["missing_branches"]}


if __name__ == "__main__":
    sys.exit(main())
