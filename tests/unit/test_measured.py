from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.home import Home
from orchestrator.ledger import RunRecord
from orchestrator.lifecycle import State, Wish
from orchestrator.measured import measured_speeds
from orchestrator.spec import RunSpec
from orchestrator.spec_file import spec_from_photos
from remote_trainer import wire


def spec(*overrides: str) -> RunSpec:
    return spec_from_photos(Path("/photos"), "sks dog", ["output.folder=/models", *overrides])


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def run(home: Home, name: str, *speeds: float, gpu: str = "RTX 4090", created_at: float = 0.0) -> RunRecord:
    plan = {
        "offer": {"gpu": gpu},
        "machine": None if gpu else {"label": "me@gpu-box"},
        "base_for_job": "stable-diffusion-v1-5/stable-diffusion-v1-5@abc",
        "train": {"method": "lora", "resolution": 512, "batch_size": 1},
    }
    log = home.run(name).events("one")
    log.parent.mkdir(parents=True)
    events = [wire.StepDone(step, 100, 0.1, 1e-4, speed) for step, speed in enumerate(speeds, 1)]
    log.write_bytes(b"".join(wire.encode_event(event, seq, 0.0) for seq, event in enumerate(events)))
    return RunRecord(name, created_at, "vast", "{}", json.dumps(plan), State.ENDED, Wish.RUN, None, 1, 1, None)


def test_the_median_speed_of_a_run_of_the_same_kind_is_known_by_its_gpu(home: Home) -> None:
    assert measured_speeds(spec(), [run(home, "a", 0.5, 4.0, 4.0, 4.2, 4.1)], home.run) == {"RTX 4090": 4.0}


def test_a_machine_that_stands_is_known_by_its_label(home: Home) -> None:
    assert measured_speeds(spec(), [run(home, "a", *[2.0] * 9, gpu="")], home.run) == {"me@gpu-box": 2.0}


def test_the_newer_of_two_runs_wins(home: Home) -> None:
    runs = [run(home, "new", *[5.0] * 9, created_at=2.0), run(home, "old", *[3.0] * 9, created_at=1.0)]
    assert measured_speeds(spec(), runs, home.run) == {"RTX 4090": 5.0}


@pytest.mark.parametrize(
    "other", ["train.method=full", "train.resolution=768", "train.batch_size=2", "model.base=builtin:tiny"]
)
def test_a_run_of_another_kind_says_nothing(home: Home, other: str) -> None:
    assert measured_speeds(spec(other), [run(home, "a", *[4.0] * 9)], home.run) == {}


def test_a_few_steps_are_no_measurement(home: Home) -> None:
    assert measured_speeds(spec(), [run(home, "a", 4.0, 4.0)], home.run) == {}


def test_only_the_end_of_a_long_log_is_read_and_a_torn_line_is_no_harm(home: Home) -> None:
    record = run(home, "a", *[1.0] * 2000, *[4.0] * 2000)
    [log] = home.run("a").event_logs()
    log.write_bytes(log.read_bytes() + b'{"v": 1, "seq"')
    assert measured_speeds(spec(), [record], home.run) == {"RTX 4090": 4.0}


def test_a_plan_of_another_version_says_nothing(home: Home) -> None:
    record = RunRecord("a", 0.0, "vast", "{}", "{}", State.ENDED, Wish.RUN, None, 1, 1, None)
    assert measured_speeds(spec(), [record], home.run) == {}
