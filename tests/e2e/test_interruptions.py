"""Kill the driver anywhere: the next one brings the run to the very same end."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import Cloudbooth, Finished, processes_naming
from tests.e2e.weights import weights_sha256

STEPS = ("--steps", "100", "--set", "train.checkpoint_every=25")
"""So many that a quick machine is not done before the last of ten kills, which take seven seconds together."""
BOUNDARIES = ("provisioning", "shipping", "training", "retrieving", "releasing")


@pytest.fixture(scope="module")
def undisturbed_sha256(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the weights that the same settings yield when nobody interferes."""
    root = tmp_path_factory.mktemp("undisturbed")
    installation = Cloudbooth(root)
    installation.run(*installation.launch_argv("calm", *STEPS))
    return weights_sha256(installation.models / "calm")


def entered(state: str) -> Any:
    return lambda line: line["type"] == "state" and line["state"] == state


def assert_one_undisturbed_training(installation: Cloudbooth, run: str, last: Finished, expected: str) -> None:
    assert last.summary["reason"] == "done"
    assert weights_sha256(installation.models / run) == expected
    assert len(installation.events(run, "hello")) == 1, "a second supervisor was started"
    assert processes_naming(str(installation.root)) == []
    [view] = [line for line in installation.run("ps", "--json").lines if line["type"] == "run"]
    assert view["machines_held"] == []


@pytest.mark.parametrize("where", ["cloudbooth", "cloudbooth_over_ssh"])
def test_a_driver_killed_at_every_phase_boundary_changes_nothing(
    where: str, request: pytest.FixtureRequest, undisturbed_sha256: str
) -> None:
    installation: Cloudbooth = request.getfixturevalue(where)
    argv = installation.launch_argv("robot", *STEPS)
    for boundary in BOUNDARIES:
        assert installation.kill_when(argv, entered(boundary)), f"the run ended before {boundary}"
        argv = ["attach", "robot", "--json"]
    last = installation.run("attach", "robot", "--json")
    assert_one_undisturbed_training(installation, "robot", last, undisturbed_sha256)


def test_a_driver_killed_at_ten_random_moments_changes_nothing(cloudbooth: Cloudbooth, undisturbed_sha256: str) -> None:
    moments = random.Random(20261122)
    # The first kill is late enough for the run to exist: before that there is nothing to attach to.
    assert cloudbooth.kill_when(cloudbooth.launch_argv("robot", *STEPS), entered("provisioning"))
    for kill in range(9):
        seconds = moments.uniform(0.3, 1.2)
        assert cloudbooth.kill_after(["attach", "robot", "--json"], seconds), f"the run was over before kill {kill}"
    last = cloudbooth.run("resume", "robot", "--json")
    assert_one_undisturbed_training(cloudbooth, "robot", last, undisturbed_sha256)


def test_a_launch_killed_before_the_run_exists_leaves_nothing_behind(cloudbooth: Cloudbooth) -> None:
    argv = cloudbooth.launch_argv("robot", "--steps", "2")
    assert cloudbooth.kill_when(argv, lambda line: line["type"] == "plan")
    runs = [line for line in cloudbooth.run("ps", "--json").lines if line["type"] == "run"]
    if not runs:  # the kill came before the ledger's entry: the same launch works
        cloudbooth.run("launch", *argv[1:])


def test_a_stopped_run_resumes_to_the_same_weights(cloudbooth: Cloudbooth, undisturbed_sha256: str) -> None:
    assert cloudbooth.kill_when(
        cloudbooth.launch_argv("robot", *STEPS),
        lambda line: line["type"] == "event" and line["event"]["type"] == "checkpoint",
    )
    stopped = cloudbooth.run("stop", "robot", "--json")
    assert stopped.summary["reason"] in ("stopped", "done")
    if stopped.summary["reason"] == "stopped":
        assert Path(stopped.summary["checkpoint"], "manifest.json").exists()
        resumed = cloudbooth.run("resume", "robot", "--json")
        assert resumed.summary["reason"] == "done"
    assert weights_sha256(cloudbooth.models / "robot") == undisturbed_sha256
