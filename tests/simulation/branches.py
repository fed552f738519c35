"""Which branches of the code that decides are reached by simulated schedules: `make simulate-coverage`.

Every branch of the files below is reached by a schedule or stands in `ELSEWHERE`, by its line, with what does reach it.
Exit code 1 when one is neither.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import coverage

DECIDING = (
    "orchestrator/driver.py", "orchestrator/lifecycle.py", "orchestrator/phases/*.py", "orchestrator/recovery.py",
    "orchestrator/latecomers.py", "remote_trainer/oversight.py", "remote_trainer/lease.py", "remote_trainer/tenancy.py",
)  # fmt: skip

ELSEWHERE: dict[str, dict[str, str]] = {}
"""File → the stripped line that a branch leaves → what reaches it."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.branches", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    call = parser.parse_args(argv)
    measured = coverage.Coverage(branch=True, include=list(DECIDING), data_file=None)
    measured.start()
    from tests.simulation.schedule import draw  # after the start, so that the lines of definitions count
    from tests.simulation.world import play

    for seed in range(call.first, call.first + call.seeds):
        play(draw(seed))
    measured.stop()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        measured.json_report(outfile=str(report))
        files = json.loads(report.read_text())["files"]
    reached = sum(file["summary"]["covered_branches"] for file in files.values())
    total = sum(file["summary"]["num_branches"] for file in files.values())
    unexplained = [
        line for name, file in sorted(files.items()) for line in _unexplained(name, file["missing_branches"])
    ]
    print(f"{call.seeds} schedules reach {reached} of {total} branches")
    for line in unexplained:
        print(line)
    print(f"{len(unexplained)} branches are neither reached nor known to be reached elsewhere")
    return 1 if unexplained else 0


def _unexplained(name: str, missing: list[list[int]]) -> list[str]:
    source = Path(name).read_text().splitlines()
    known = ELSEWHERE.get(name, {})
    lines = [(begin, end, source[begin - 1].strip()) for begin, end in missing]
    return [f"{name}:{begin} -> {end}: {text}" for begin, end, text in lines if text not in known]


if __name__ == "__main__":
    sys.exit(main())
