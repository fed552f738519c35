"""`logs`: what a person reads of a run's steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import cli
from orchestrator.cli.render.events import tells_enough_anew
from remote_trainer import wire
from tests.unit.recorded_run import RecordedRun


def shown(steps: list[int], of: int) -> list[int]:
    last: wire.StepDone | None = None
    told = []
    for number in steps:
        step = wire.StepDone(number, of, 0.1, 1e-4, 1.0)
        if tells_enough_anew(step, last):
            told.append(number)
            last = step
    return told


def test_of_many_steps_25_get_a_line_the_first_and_the_last_among_them() -> None:
    told = shown(list(range(1, 1001)), 1000)
    assert told == [1, *range(40, 1001, 40)]


def test_of_few_steps_all_get_one() -> None:
    assert shown([1, 2, 3], 3) == [1, 2, 3]
    assert shown([10, 20, 30], 100) == [10, 20, 30]


def test_a_run_that_goes_back_to_a_checkpoint_says_so() -> None:
    assert shown([400, 410, 390, 391], 1000) == [400, 390]


@pytest.mark.parametrize(("more", "lines"), [((), 26), (("--all",), 41)])
def test_people_get_some_steps_and_all_else(more: tuple[str, ...], lines: int, isolated_home: Path) -> None:
    run = RecordedRun(isolated_home / "cloudbooth")
    events = [(1.0, wire.StepDone(step, 10_000, 0.1, 1e-4, 1.0)) for step in range(0, 10_001, 250)]
    run.write_events("a", [*events, (1.0, wire.Stopped(10_000))])
    done = CliRunner().invoke(cli, ["logs", "dog", *more], standalone_mode=False)
    assert done.exception is None
    assert done.stdout.count("step ") == lines + len(["stopped at step 10000"])
    assert ("--all" in done.stdout) is (more == ())
