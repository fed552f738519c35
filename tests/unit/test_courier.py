"""Checkpoints coming home from the real agent on this machine, while others pull, crash or cannot connect."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.code_bundle import trainer_code
from orchestrator.courier import (
    BackgroundCourier,
    Delivery,
    bring,
    checkpoint_home,
    deliver,
    home_already,
    missing_samples,
)
from orchestrator.home import RunHome
from orchestrator.host import HostError, HostUnreachable
from orchestrator.ledger import ArtifactRecord, Ledger
from orchestrator.progress import Progress
from orchestrator.remote_run import RemoteRun, probe, unpack_code
from orchestrator.this_machine import LocalHost
from providers.api import ThisMachine
from remote_trainer import wire
from remote_trainer.commit import commit_folder, file_entry, preparing
from tests.fakes.told import Told
from tests.unit.fake_clock import FakeClock

STEP = 10
WEIGHTS = bytes(range(256)) * 8192


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def remote(tmp_path: Path) -> RemoteRun:
    host, access = LocalHost(), ThisMachine(python=sys.executable, workdir=str(tmp_path / "work"))
    facts = probe(host, access, trainer_code())
    unpack_code(host, access, facts, trainer_code())
    run = RemoteRun(host, access, facts.workdir, trainer_code().id, "robot", "robot", epoch=1)
    target = Path(run.folder) / wire.checkpoint_folder(STEP)
    with preparing(target) as prepared:
        (prepared / "weights").write_bytes(WEIGHTS)
        commit_folder(prepared, target, step=STEP)
    return run


@pytest.fixture
def delivery(tmp_path: Path, remote: RemoteRun, told: Told) -> Delivery:
    ledger = Ledger(tmp_path / "ledger.sqlite3", FakeClock())
    ledger.add_run("robot", "local", "{}", "{}")
    return Delivery("robot", RunHome(tmp_path / "runs" / "robot"), ledger, told, lambda: remote)


@pytest.fixture
def progress(remote: RemoteRun) -> Progress:
    raw = (Path(remote.folder) / wire.checkpoint_folder(STEP) / wire.MANIFEST_NAME).read_bytes()
    manifest = wire.Manifest.from_bytes(raw)
    announced = wire.CheckpointCommitted(STEP, wire.checkpoint_folder(STEP), manifest.sha256, manifest.total_bytes)
    return Progress(checkpoints=(announced,))


def nobody_to_wait_for() -> None:
    pytest.fail("nobody else fetches")


def test_a_rented_machine_is_told_again_what_is_home() -> None:
    newest = wire.CommittedFolder(20, "checkpoints/checkpoint-000020", "c20")
    older = wire.CommittedFolder(10, "checkpoints/checkpoint-000010", "c10")
    guard = wire.GuardStatus(True, True, 600.0, None, "stop")
    status = wire.HostStatus("log", 17, True, 1, 100, True, None, (older, newest), None, 0, guard=guard)
    home = [ArtifactRecord("checkpoint", 10, "/x", "c10"), ArtifactRecord("checkpoint", 20, "/x", "c20")]
    assert home_already(status, home) == ["c20"], "the one that the disk is kept for"
    assert home_already(status, home[:1]) == []
    assert home_already(replace(status, guard=replace(guard, on_lapse="terminate")), home) == [], "it knows"
    assert home_already(replace(status, guard=None), home) == [], "a machine that stands on its own keeps its disk"


def test_a_picture_that_was_made_twice_is_fetched_once(delivery: Delivery, remote: RemoteRun) -> None:
    path = Path(remote.folder) / "validation" / "000010.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"picture")
    made = wire.SampleMade(10, "a photo", file_entry(path, Path(remote.folder)))
    bring(delivery, remote, Progress(samples=(made, made)), nobody_to_wait_for)
    assert (delivery.home.root / "validation" / "000010.png").read_bytes() == b"picture"


@pytest.mark.parametrize("path", ["../planted", "job.json", "validation/../../planted", "/tmp/planted", "validation"])
def test_a_host_cannot_have_a_file_written_beside_the_pictures(delivery: Delivery, path: str) -> None:
    made = wire.SampleMade(10, "a photo", wire.FileEntry(path, 7, "0" * 64))
    assert missing_samples(delivery.home, Progress(samples=(made,))) == []


def test_a_host_cannot_have_its_log_written_elsewhere(delivery: Delivery) -> None:
    with pytest.raises(HostError, match="name that none of ours has"):
        delivery.home.events("1/../../../planted")


def steps_on_record(delivery: Delivery) -> list[int]:
    return [artifact.step for artifact in delivery.ledger.artifacts("robot")]


def test_a_checkpoint_comes_home_and_is_put_on_record(
    delivery: Delivery, remote: RemoteRun, progress: Progress, told: Told
) -> None:
    bring(delivery, remote, progress, nobody_to_wait_for)
    assert (checkpoint_home(delivery.home, STEP) / "weights").read_bytes() == WEIGHTS
    assert steps_on_record(delivery) == [STEP]
    assert told.arrivals == ["checkpoint"]


def test_a_checkpoint_that_came_home_before_a_crash_is_put_on_record_by_the_next_process(
    delivery: Delivery, remote: RemoteRun, progress: Progress, tmp_path: Path
) -> None:
    bring(delivery, remote, progress, nobody_to_wait_for)
    ledger = Ledger(tmp_path / "as it was before.sqlite3", FakeClock())
    ledger.add_run("robot", "local", "{}", "{}")
    (Path(remote.folder) / wire.checkpoint_folder(STEP) / "weights").unlink()  # nothing is fetched again
    forgetful = Delivery("robot", delivery.home, ledger, delivery.reporter, delivery.open_remote)
    assert deliver(forgetful, progress)
    assert steps_on_record(forgetful) == [STEP]


def test_a_checkpoint_torn_by_a_power_cut_is_fetched_again(
    delivery: Delivery, remote: RemoteRun, progress: Progress
) -> None:
    torn = checkpoint_home(delivery.home, STEP)
    torn.mkdir(parents=True)
    host_folder = Path(remote.folder) / wire.checkpoint_folder(STEP)
    (torn / wire.MANIFEST_NAME).write_bytes((host_folder / wire.MANIFEST_NAME).read_bytes())
    (torn / "weights").write_bytes(b"")
    bring(delivery, remote, progress, nobody_to_wait_for)
    assert (torn / "weights").read_bytes() == WEIGHTS


def test_the_checkpoint_of_an_earlier_machine_at_the_same_step_is_left_alone(
    delivery: Delivery, remote: RemoteRun, progress: Progress
) -> None:
    earlier = checkpoint_home(delivery.home, STEP)
    earlier.mkdir(parents=True)
    (earlier / wire.MANIFEST_NAME).write_bytes(wire.Manifest(STEP, ()).to_bytes())
    bring(delivery, remote, progress, nobody_to_wait_for)
    assert [path.name for path in earlier.iterdir()] == [wire.MANIFEST_NAME]


def test_the_part_of_an_older_checkpoint_does_not_stay_on_the_laptop(
    delivery: Delivery, remote: RemoteRun, progress: Progress
) -> None:
    abandoned = checkpoint_home(delivery.home, 5).with_name(".checkpoint-000005.part")
    abandoned.mkdir(parents=True)
    (abandoned / "weights.part").write_bytes(b"half")
    bring(delivery, remote, progress, nobody_to_wait_for)
    folder = checkpoint_home(delivery.home, STEP).parent
    assert [path.name for path in folder.iterdir()] == [Path(wire.checkpoint_folder(STEP)).name]


def test_older_checkpoints_leave_the_laptop_but_for_the_best(
    delivery: Delivery, remote: RemoteRun, progress: Progress
) -> None:
    said = json.dumps({"evaluations": [{"step": step, "mean_loss": abs(step - 2)} for step in range(STEP)]})
    for step in range(1, STEP + 3):
        if step != STEP:
            older = checkpoint_home(delivery.home, step)
            older.mkdir(parents=True)
            (older / "state.json").write_text(said)
    bring(delivery, remote, progress, nobody_to_wait_for)
    there = sorted(folder.name for folder in checkpoint_home(delivery.home, 1).parent.iterdir())
    assert there == [f"checkpoint-{step:06d}" for step in (2, STEP + 1, STEP + 2)]


def test_a_courier_that_failed_does_not_log_in_again_at_every_event(
    delivery: Delivery, progress: Progress, told: Told
) -> None:
    logins = 0
    again = threading.Event()

    def refused() -> RemoteRun:
        nonlocal logins
        logins += 1
        if logins > 1:
            again.set()
        raise HostUnreachable("no answer")

    cut_off = Delivery("robot", delivery.home, delivery.ledger, told, refused)
    with BackgroundCourier(cut_off, first_pause_s=3600) as courier:
        courier.show(progress)
        assert told.noted.wait(30)
        courier.show(Progress(step=1, checkpoints=progress.checkpoints))
        assert not again.wait(0.3)  # leaving does not wait for the pause to end


def test_a_courier_that_failed_tries_again_after_its_pause(
    delivery: Delivery, progress: Progress, told: Told, remote: RemoteRun
) -> None:
    arrived = threading.Event()
    logins = 0

    def refused_once() -> RemoteRun:
        nonlocal logins
        logins += 1
        if logins == 1:
            raise HostUnreachable("no answer")
        arrived.set()
        return remote

    with BackgroundCourier(
        Delivery("robot", delivery.home, delivery.ledger, told, refused_once), first_pause_s=0.01
    ) as courier:
        courier.show(progress)
        assert arrived.wait(30)


ANOTHER_PROCESS = """
import sys
from pathlib import Path
from orchestrator.clock import SystemClock
from orchestrator.courier import Delivery, bring
from orchestrator.home import RunHome
from orchestrator.ledger import Ledger
from orchestrator.progress import Progress
from orchestrator.remote_run import RemoteRun
from orchestrator.this_machine import LocalHost
from providers.api import ThisMachine
from remote_trainer import wire
from tests.fakes.told import Told

root, code, step, manifest = sys.argv[1:]
access = ThisMachine(python=sys.executable, workdir=root + "/work")
remote = RemoteRun(LocalHost(), access, root + "/work", code, "robot", "robot", 1)
ledger = Ledger(Path(root, "ledger.sqlite3"), SystemClock())
delivery = Delivery("robot", RunHome(Path(root, "runs", "robot")), ledger, Told(), lambda: remote)
newest = wire.CheckpointCommitted(int(step), wire.checkpoint_folder(int(step)), manifest, 0)
bring(delivery, remote, Progress(checkpoints=(newest,)), lambda: None)
"""


def test_processes_that_bring_one_checkpoint_at_once_all_succeed(
    delivery: Delivery, progress: Progress, tmp_path: Path
) -> None:
    [newest] = progress.checkpoints
    argv = [sys.executable, "-c", ANOTHER_PROCESS, str(tmp_path), trainer_code().id, str(STEP), newest.manifest_sha256]
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, cwd=root) for _ in range(3)]
    assert [process.communicate(timeout=60)[1] for process in processes] == ["", "", ""]
    assert (checkpoint_home(delivery.home, STEP) / "weights").read_bytes() == WEIGHTS
    assert steps_on_record(delivery) == [STEP]
