"""The time a run may take is kept by its supervisor, with a checkpoint at the end of it."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.command import Cloudbooth, processes_naming


def test_a_run_out_of_time_ends_with_its_checkpoint_at_home(cloudbooth: Cloudbooth) -> None:
    seconds = 15  # of which the environment and the imports take about eight
    argv = cloudbooth.launch_argv("robot", "--steps", "100000", "--set", f"limits.max_hours={seconds / 3600}")
    ended = cloudbooth.run(*argv, check=3)
    assert ended.summary["message"] == "the run reached its time limit"
    assert "cloudbooth resume robot" in ended.summary["hint"]
    [failed] = cloudbooth.events("robot", "failed")
    assert failed["code"] == "deadline"
    if ended.summary["step"]:  # on a slow machine the time may be over before the first step
        assert Path(ended.summary["checkpoint"], "manifest.json").exists()
    assert processes_naming(str(cloudbooth.root)) == []
