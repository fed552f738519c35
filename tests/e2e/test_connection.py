"""Links that break and processes that die, against a real SSH server: the run goes on, nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from remote_trainer import run_folder as folders
from remote_trainer import wire
from tests.e2e.command import PATIENCE_S, Cloudbooth, processes_naming, wait_until
from tests.e2e.weights import weights_sha256
from tests.fakes.sshd import Sshd

EVERY = 12
STEPS = ("--steps", str(7 * EVERY), "--set", f"train.checkpoint_every={EVERY}")
"""So many that whoever is killed in the fifth interval has not trained to the end, however late the kill comes."""


@pytest.fixture(scope="module")
def undisturbed_sha256(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the weights that STEPS yield when nothing breaks."""
    installation = Cloudbooth(tmp_path_factory.mktemp("undisturbed"))
    installation.run(*installation.launch_argv("calm", *STEPS))
    return weights_sha256(installation.models / "calm")


class RunOnHost:
    """The run `robot` as somebody logged in on the host sees it."""

    def __init__(self, sshd: Sshd) -> None:
        self._runs = sshd.home / "work" / "runs"
        self._seen: Path | None = None

    @property
    def folder(self) -> Path:
        """Also when it is gone again. Raises FileNotFoundError before it was made."""
        for found in self._runs.glob("robot-*"):
            self._seen = found
        if self._seen is None:
            raise FileNotFoundError(self._runs)
        return self._seen

    def types(self) -> list[str]:
        """Of the events so far."""
        try:
            lines = (self.folder / "events.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line)["type"] for line in lines if line.endswith("}")]

    def last_step(self) -> int:
        """The highest step that an event names; 0 before the first."""
        try:
            lines = (self.folder / "events.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return 0
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return max((event["step"] for event in events if event["type"] in ("step", "checkpoint")), default=0)

    def await_checkpoint(self) -> None:
        wait_until(lambda: "checkpoint" in self.types(), "a checkpoint is committed")

    def kill_supervisor(self) -> None:
        recorded = folders.read_json(self.folder / folders.SUPERVISOR_FILE)
        assert recorded is not None
        os.kill(recorded["pid"], signal.SIGKILL)

    def trainer_pid(self) -> int:
        pid = self.trainer_pid_if_any()
        assert pid is not None
        return pid

    def trainer_pid_if_any(self) -> int | None:
        """None between two stages."""
        recorded = folders.read_json(self.folder / folders.STAGE_FILE)
        return None if recorded is None else int(recorded["pgid"])


@pytest.fixture
def on_host(sshd: Sshd) -> RunOnHost:
    return RunOnHost(sshd)


def mirror(installation: Cloudbooth) -> bytes:
    [file] = (installation.root / "state" / "runs" / "robot").glob("events-*.jsonl")
    return file.read_bytes()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_connections_killed_again_and_again_lose_and_double_nothing(
    cloudbooth_over_ssh: Cloudbooth, sshd: Sshd, on_host: RunOnHost
) -> None:
    kills, due_at = 0, 20
    kept = cloudbooth_over_ssh.root / "events-on-the-host.jsonl"
    with cloudbooth_over_ssh.started(*cloudbooth_over_ssh.launch_argv("robot", "--steps", "160")) as driver:
        assert driver.stdout is not None
        for text in driver.stdout:
            line = json.loads(text)
            if line["type"] == "state" and line["state"] in ("shipping", "retrieving", "releasing"):
                sshd.kill_connections()
            if line["type"] == "event" and line["event"].get("step", 0) >= due_at:
                if not kept.exists():
                    os.link(on_host.folder / "events.jsonl", kept)  # outlives the folder, which goes when all is done
                kills += sshd.kill_connections() > 0  # 0 while the driver waits before it connects again
                due_at = line["event"]["step"] + 40
            last = line
        errors = driver.communicate(timeout=PATIENCE_S)[1]
    assert (driver.returncode, errors) == (0, "")
    assert last["reason"] == "done"
    assert kills >= 2
    assert mirror(cloudbooth_over_ssh) == kept.read_bytes()
    events = [line for line in cloudbooth_over_ssh.events("robot") if line["type"] != "summary"]
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events].count("hello") == 1


def test_a_server_that_is_away_for_seconds_changes_nothing(
    cloudbooth_over_ssh: Cloudbooth, sshd: Sshd, on_host: RunOnHost, undisturbed_sha256: str
) -> None:
    with cloudbooth_over_ssh.started(*cloudbooth_over_ssh.launch_argv("robot", *STEPS)) as driver:
        on_host.await_checkpoint()
        sshd.go_away()
        wait_until(lambda: on_host.types().count("checkpoint") >= 3, "the run goes on")
        sshd.come_back()
        output, errors = driver.communicate(timeout=PATIENCE_S)
    assert (driver.returncode, errors) == (0, "")
    assert any("the run goes on" in json.loads(line).get("text", "") for line in output.splitlines())
    assert weights_sha256(cloudbooth_over_ssh.models / "robot") == undisturbed_sha256
    assert len(cloudbooth_over_ssh.events("robot", "hello")) == 1


def test_a_killed_supervisor_takes_its_trainer_along_and_is_replaced(
    cloudbooth_over_ssh: Cloudbooth, on_host: RunOnHost, undisturbed_sha256: str
) -> None:
    with cloudbooth_over_ssh.started(*cloudbooth_over_ssh.launch_argv("robot", *STEPS)) as driver:
        on_host.await_checkpoint()
        trainer = on_host.trainer_pid()
        on_host.kill_supervisor()
        wait_until(lambda: not is_alive(trainer), "the trainer without a supervisor ends itself")
        _, errors = driver.communicate(timeout=PATIENCE_S)
    assert (driver.returncode, errors) == (0, "")
    assert weights_sha256(cloudbooth_over_ssh.models / "robot") == undisturbed_sha256
    assert len(cloudbooth_over_ssh.events("robot", "hello")) == 2
    assert processes_naming(str(on_host.folder)) == []


def test_a_trainer_killed_at_five_random_steps_repeats_less_than_an_interval_each_time(
    cloudbooth_over_ssh: Cloudbooth, on_host: RunOnHost, undisturbed_sha256: str
) -> None:
    moments = random.Random(20261122)
    with cloudbooth_over_ssh.started(*cloudbooth_over_ssh.launch_argv("robot", *STEPS)) as driver:
        for kill in range(5):
            step = moments.randrange(EVERY * kill + 1, EVERY * (kill + 1))
            wait_until(lambda step=step: on_host.last_step() >= step, f"step {step} is done")  # type: ignore[misc]
            os.killpg(on_host.trainer_pid(), signal.SIGKILL)
        _, errors = driver.communicate(timeout=PATIENCE_S)
    assert (driver.returncode, errors) == (0, "")
    assert weights_sha256(cloudbooth_over_ssh.models / "robot") == undisturbed_sha256
    events = [line for line in cloudbooth_over_ssh.events("robot") if line["type"] != "summary"]
    assert sum(event["type"] == "warning" and "SIGKILL" in event["message"] for event in events) == 5
    # A committed checkpoint is never trained again: no step at or below it comes after it.
    committed = 0
    for event in events:
        if event["type"] == "checkpoint":
            assert event["step"] > committed
            committed = event["step"]
        elif event["type"] == "step":
            assert event["step"] > committed - 1, event


def test_a_trainer_that_is_killed_again_and_again_is_a_failure_that_resume_makes_good(
    cloudbooth_over_ssh: Cloudbooth, on_host: RunOnHost, undisturbed_sha256: str
) -> None:
    with cloudbooth_over_ssh.started(*cloudbooth_over_ssh.launch_argv("robot", *STEPS)) as driver:
        on_host.await_checkpoint()
        killed: int | None = None
        while driver.poll() is None:
            trainer = on_host.trainer_pid_if_any()
            if trainer not in (None, killed):
                with suppress(ProcessLookupError):
                    os.kill(trainer, signal.SIGKILL)
                killed = trainer
            time.sleep(0.05)
        output, errors = driver.communicate(timeout=PATIENCE_S)
    assert (driver.returncode, errors) == (3, "")
    summary = json.loads(output.splitlines()[-1])
    assert summary["reason"] == "training-failed"
    assert summary["message"] == "the trainer was killed by SIGKILL again and again"
    assert "cloudbooth resume robot" in summary["hint"]
    [failed] = cloudbooth_over_ssh.events("robot", "failed")
    assert failed["code"] == "trainer-killed"

    assert cloudbooth_over_ssh.run("resume", "robot", "--json").summary["reason"] == "done"
    assert weights_sha256(cloudbooth_over_ssh.models / "robot") == undisturbed_sha256


def test_a_host_that_lost_everything_gets_the_checkpoint_that_came_home(
    cloudbooth_over_ssh: Cloudbooth, on_host: RunOnHost, undisturbed_sha256: str
) -> None:
    cloudbooth_over_ssh.run(*cloudbooth_over_ssh.launch_argv("robot", *STEPS, "--detach"))
    on_host.await_checkpoint()
    assert cloudbooth_over_ssh.run("stop", "robot", "--json").summary["reason"] == "stopped"
    shutil.rmtree(on_host.folder)

    resumed = cloudbooth_over_ssh.run("resume", "robot", "--json")
    sent: set[Any] = {line["what"] for line in resumed.lines if line["type"] == "transfer"}
    assert any(what.startswith("checkpoint ") for what in sent), sent
    assert resumed.summary["reason"] == "done"
    first_step = next(line for line in resumed.lines if line["type"] == "event" and line["event"]["type"] == "step")
    assert first_step["event"]["step"] > EVERY, "it began from the start"
    assert weights_sha256(cloudbooth_over_ssh.models / "robot") == undisturbed_sha256


# ---- the agent alone -------------------------------------------------------------------------------------------------


@pytest.fixture
def at_work(tmp_path: Path) -> Iterator[Path]:
    """A run's folder whose supervisor was started twice at once, with epoch 7."""
    folder = tmp_path / "work" / "runs" / "robot"
    folder.mkdir(parents=True)
    job = wire.Job("robot", "robot", "builtin:tiny", wire.TrainSpec(), datasets=(), formats=(), allow_cpu=True)
    (folder / wire.JOB_FILE).write_bytes(wire.dumps(job))
    starts = [agent_call(folder, "start", "--epoch", "7") for _ in range(2)]
    try:
        for start in starts:
            output, errors = start.communicate(timeout=PATIENCE_S)
            assert start.returncode == 0, errors
            assert json.loads(output)["started"] is True
        yield folder
    finally:
        agent_call(folder, "stop", "--now", "--epoch", "9").communicate(timeout=PATIENCE_S)


def agent_call(folder: Path, *call: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "remote_trainer", *call, "--run-folder", str(folder)],
        cwd=Path(__file__).parents[2], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def test_starts_at_once_yield_one_supervisor(at_work: Path) -> None:
    supervisors = [line for line in processes_naming(str(at_work)) if " supervise " in line]
    assert len(supervisors) == 1
    assert (at_work / "events.jsonl").read_text().count('"hello"') == 1


def test_a_driver_with_an_old_epoch_can_stop_nothing(at_work: Path) -> None:
    for how in ([], ["--now"]):
        refused = agent_call(at_work, "stop", *how, "--epoch", "6")
        assert refused.communicate(timeout=PATIENCE_S)[1] == "driver epoch 6 is older than 7\n"
        assert refused.returncode == 75
    assert '"stopped"' not in (at_work / "events.jsonl").read_text()
    assert folders.is_held(at_work / folders.SUPERVISOR_LOCK)


def test_stopping_now_leaves_nothing_behind_even_when_a_start_is_under_way(at_work: Path) -> None:
    calls = [agent_call(at_work, "start", "--epoch", "8"), agent_call(at_work, "stop", "--now", "--epoch", "8")]
    for call in calls:
        call.communicate(timeout=PATIENCE_S)
    assert calls[1].returncode == 0
    assert processes_naming(str(at_work)) == []


def test_a_start_that_comes_after_stopping_now_is_refused_until_a_later_driver_asks(at_work: Path) -> None:
    assert agent_call(at_work, "stop", "--now", "--epoch", "8").communicate(timeout=PATIENCE_S)[1] == ""
    late = agent_call(at_work, "start", "--epoch", "8")
    assert "driver epoch 8 has ended everything" in late.communicate(timeout=PATIENCE_S)[1]
    assert late.returncode == 75
    assert processes_naming(str(at_work)) == []
    later = agent_call(at_work, "start", "--epoch", "9")
    assert json.loads(later.communicate(timeout=PATIENCE_S)[0])["started"] is True


def test_a_supervisor_is_not_taken_for_the_one_before_it(at_work: Path) -> None:
    recorded = folders.read_json(at_work / folders.SUPERVISOR_FILE)
    assert recorded is not None
    agent_call(at_work, "stop", "--now", "--epoch", "7").communicate(timeout=PATIENCE_S)
    start = agent_call(at_work, "start", "--epoch", "8")
    told = json.loads(start.communicate(timeout=PATIENCE_S)[0])
    assert told["supervisor_pid"] not in (0, recorded["pid"])


def test_a_log_that_lost_its_tail_is_followed_from_its_new_beginning(at_work: Path) -> None:
    before = json.loads(agent_call(at_work, "status").communicate(timeout=PATIENCE_S)[0])
    agent_call(at_work, "stop", "--now", "--epoch", "7").communicate(timeout=PATIENCE_S)
    log = at_work / wire.EVENTS_FILE
    log.write_bytes(b"")
    start = agent_call(at_work, "start", "--epoch", "8")
    after = json.loads(start.communicate(timeout=PATIENCE_S)[0])
    assert after["incarnation"] not in ("", before["incarnation"])
    assert wire.decode_event(log.read_bytes().splitlines()[0]).seq == 0
