"""The verbs that watch, steer and end a run, each as a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, Any

import pytest

from tests.e2e.command import PATIENCE_S, Cloudbooth, Finished, processes_naming, wait_until

ENDLESS = ("--steps", "20000", "--set", "train.checkpoint_every=40")
"""For runs that are ended by what is tested."""
ENDS_BY_ITSELF_AFTER_S = 120.0
"""Sooner, on any machine."""


def read_until(stream: IO[str] | None, moment: Any) -> dict[str, Any]:
    assert stream is not None
    for line in stream:
        data: dict[str, Any] = json.loads(line)
        if moment(data):
            return data
    raise AssertionError("the output ended before that")


def trained(line: dict[str, Any]) -> bool:
    return bool(line["type"] == "event" and line["event"]["type"] == "step")


def view(installation: Cloudbooth, run: str) -> dict[str, Any]:
    return installation.run("status", run, "--json").summary


def await_training(installation: Cloudbooth, run: str) -> None:
    def has_seen_a_step() -> bool:
        logs = (installation.root / "state" / "runs" / run).glob("events-*.jsonl")
        return any('"type": "step"' in log.read_text() for log in logs)

    wait_until(has_seen_a_step, f"{run} trains")
    assert view(installation, run)["step"] > 0


def assert_legible(finished: Finished, columns: int | None = 80) -> None:
    """Plain text that fits a narrow terminal (None: lines of any length, for texts that are searched)."""
    assert "Traceback" not in finished.stdout + finished.stderr
    assert "\x1b" not in finished.stdout
    assert finished.stdout.strip()
    if columns is not None:
        assert [line for line in finished.stdout.splitlines() if len(line.rstrip()) > columns] == []


def assert_refused(finished: Finished, fact: str) -> None:
    assert finished.stdout == ""
    assert finished.stderr.startswith("error: ")
    assert fact in finished.stderr
    assert "\n\nhint: " in finished.stderr


def assert_can_be_looked_at(installation: Cloudbooth, run: str) -> None:
    assert_legible(installation.run("ps"))
    assert_legible(installation.run("status", run), columns=None)
    assert_legible(installation.run("logs", run), columns=None)
    assert_legible(installation.run("logs", run, "--trainer"), columns=None)
    assert_legible(installation.run("pull", run), columns=None)
    for verb in (["ps"], ["status", run], ["logs", run], ["logs", run, "--trainer"], ["pull", run]):
        finished = installation.run(*verb, "--json")
        assert finished.summary["type"] == "summary", verb
        assert all(isinstance(line, dict) for line in finished.lines)


def test_a_detached_run_is_watched_and_stopped_from_other_processes(cloudbooth: Cloudbooth) -> None:
    launched = cloudbooth.run(*cloudbooth.launch_argv("robot", *ENDLESS, "--detach"))
    assert launched.summary["detached"] is True
    assert view(cloudbooth, "robot")["driven"] is True

    with cloudbooth.started("attach", "robot", "--json") as watcher:
        read_until(watcher.stdout, trained)
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(timeout=PATIENCE_S) == 130
    assert view(cloudbooth, "robot")["reason"] is None
    os.kill(launched.summary["driver_pid"], 0)  # raises when there is no such process

    with cloudbooth.started("attach", "robot", "--json") as watcher:
        read_until(watcher.stdout, trained)
        stopped = cloudbooth.run("stop", "robot", "--json")
        assert stopped.summary["reason"] == "stopped"
        assert Path(stopped.summary["checkpoint"], "manifest.json").exists()
        output, _ = watcher.communicate(timeout=PATIENCE_S)
        assert watcher.returncode == 6
        assert json.loads(output.splitlines()[-1])["reason"] == "stopped"
    assert_refused(cloudbooth.run("stop", "robot", check=8), "has ended already (stopped)")


def test_a_run_can_be_looked_at_while_it_trains_and_after_it_was_ended(cloudbooth: Cloudbooth) -> None:
    cloudbooth.run(*cloudbooth.launch_argv("robot", *ENDLESS, "--detach"))
    await_training(cloudbooth, "robot")
    assert_can_be_looked_at(cloudbooth, "robot")

    with cloudbooth.started("logs", "robot", "-f", "--json") as follower:
        read_until(follower.stdout, lambda line: line["type"] == "step")
        asked_at = time.monotonic()
        assert cloudbooth.run("down", "robot", "--json").summary["reason"] == "canceled"
        assert time.monotonic() - asked_at < ENDS_BY_ITSELF_AFTER_S, "`down` waited for something"
        output, errors = follower.communicate(timeout=PATIENCE_S)
        assert (follower.returncode, errors) == (0, "")
        assert json.loads(output.splitlines()[-1])["type"] == "summary"
    wait_until(lambda: processes_naming(str(cloudbooth.root)) == [], "all processes of the run are gone")
    assert view(cloudbooth, "robot")["machines_held"] == []
    assert_can_be_looked_at(cloudbooth, "robot")

    assert list(cloudbooth.root.rglob("runs/robot*")) != []
    cloudbooth.run("forget", "robot", "--yes", "--json")
    assert list(cloudbooth.root.rglob("runs/robot*")) == [], "neither the laptop's folder nor the machine's is left"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Cloudbooth:
    """With a run `robot` that is done. To be read, not changed."""
    installation = Cloudbooth(tmp_path_factory.mktemp("finished"))
    installation.run(*installation.launch_argv("robot", "--steps", "12", "--set", "train.checkpoint_every=4"))
    return installation


def test_status_and_pull_name_the_files_that_are_on_the_disk_and_no_others(finished: Cloudbooth) -> None:
    pulled, seen = finished.run("pull", "robot", "--json").summary, view(finished, "robot")
    for artifacts in (pulled["artifacts"], seen["artifacts"]):
        assert [artifact["kind"] for artifact in artifacts].count("output") == 1
        assert [artifact["folder"] for artifact in artifacts if not Path(artifact["folder"]).is_dir()] == []
    assert pulled["pictures"] == seen["pictures"]
    assert list(Path(pulled["pictures"]).glob("step-000012/*.png"))
    told = finished.run("pull", "robot").stdout + finished.run("status", "robot").stdout
    for folder in (pulled["pictures"], *(artifact["folder"] for artifact in pulled["artifacts"])):
        assert told.count(f" {folder}\n") == 2, "a path is whole on its line"
    assert_refused(finished.run("resume", "robot", check=8), "run `robot` is done")


def test_ctrl_c_once_brings_a_checkpoint_home_and_can_be_resumed(cloudbooth: Cloudbooth) -> None:
    with cloudbooth.started(*cloudbooth.launch_argv("robot", *ENDLESS)) as driver:
        read_until(driver.stdout, trained)
        driver.send_signal(signal.SIGINT)
        output, errors = driver.communicate(timeout=PATIENCE_S)
    assert (driver.returncode, errors) == (6, "")
    summary = json.loads(output.splitlines()[-1])
    assert summary["reason"] == "stopped"
    assert Path(summary["checkpoint"], "manifest.json").exists()
    assert "cloudbooth resume robot" in summary["hint"]
    assert processes_naming(str(cloudbooth.root)) == []


def test_ctrl_c_twice_ends_everything_now(cloudbooth: Cloudbooth) -> None:
    with cloudbooth.started(*cloudbooth.launch_argv("robot", *ENDLESS)) as driver:
        read_until(driver.stdout, trained)
        driver.send_signal(signal.SIGINT)
        read_until(driver.stdout, lambda line: line["type"] == "note" and "Ctrl-C again" in line["text"])
        driver.send_signal(signal.SIGINT)
        pressed_at = time.monotonic()
        _, errors = driver.communicate(timeout=PATIENCE_S)
        assert time.monotonic() - pressed_at < ENDS_BY_ITSELF_AFTER_S
    assert (driver.returncode, errors) == (7, "")
    assert processes_naming(str(cloudbooth.root)) == []
    assert view(cloudbooth, "robot")["machines_held"] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_accepted_by_its_shell(shell: str, cloudbooth: Cloudbooth) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    script = cloudbooth.root / f"completion.{shell}"
    script.write_text(cloudbooth.run("completion", shell).stdout)
    source = f"autoload -U compinit; compinit -u; source {script}" if shell == "zsh" else f"source {script}"
    done = subprocess.run([shell, "-c", source], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_verbs_and_runs_are_completed(cloudbooth: Cloudbooth, finished: Cloudbooth) -> None:
    def offered(words: str, at: int, installation: Cloudbooth) -> list[str]:
        """Its lines are `plain,NAME`."""
        environ = {"_CLOUDBOOTH_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        asking = Cloudbooth(installation.root, environ=environ)
        return re.findall(r"(?m)^plain,(.+)$", asking.run().stdout)

    assert offered("cloudbooth la", 1, cloudbooth) == ["launch"]
    assert offered("cloudbooth status ro", 2, cloudbooth) == []
    assert offered("cloudbooth status ro", 2, finished) == ["robot"]
