"""What supervisor and laptop tell the guard, seen in its files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from remote_trainer import agent, only_copy, wire
from remote_trainer import run_folder as folders
from remote_trainer.contact import contact, saved
from remote_trainer.deadline import Allowance, Clocks, boot_clock
from remote_trainer.lease import LEASE_S, GuardFiles
from remote_trainer.oversight import DEADLINE_REACHED
from remote_trainer.tenancy import Tenancy
from tests.fakes.guarded import committed, guard_files, run_on

JOB = wire.Job("dog", "dog", "builtin:tiny", wire.TrainSpec(steps=3), (), ("lora",), machine="cb-1", limit_s=1000.0)


class Store:
    """Uploads that arrive when the test says so."""

    active = True
    longest_s: float | None = None

    def __init__(self) -> None:
        self.begun: list[wire.CommittedFolder] = []
        self.arrived: set[str] = set()

    def begin(self, folder: wire.CommittedFolder) -> None:
        self.begun.append(folder)

    def saved(self) -> frozenset[str]:
        return frozenset(self.arrived)

    def busy(self) -> bool:
        return any(folder.manifest_sha256 not in self.arrived for folder in self.begun)


class Rented:
    """A supervisor's tenancy of a machine with a living guard."""

    def __init__(self, root: Path, job: wire.Job = JOB) -> None:
        self.root, self.job, self.run_folder = root, job, run_on(root)
        self.guard, self.store = guard_files(root), Store()
        self.said: list[wire.Event] = []
        (root / "memory" / "beat").write_text(f"{int(boot_clock())}\n")
        (root / "memory" / "can-stop").write_text("yes\n")
        self.tenancy = self.begin_again()

    def begin_again(self) -> Tenancy:
        allowance = Allowance(self.run_folder, self.job.machine, self.job.deadline_s, self.job.limit_s)
        return Tenancy(self.run_folder, self.job, allowance, self.store, self.said.append)

    def commit(self, step: int) -> wire.CommittedFolder:
        """As the trainer does, and says."""
        self.tenancy.heard(wire.PhaseStarted("checkpoint"))
        folder = committed(self.run_folder, step)
        self.tenancy.heard(wire.CheckpointCommitted(step, folder.folder, folder.manifest_sha256, 1))
        return folder

    def said_of(self, kind: type[wire.Event]) -> list[wire.Event]:  # type: ignore[valid-type]
        return [event for event in self.said if isinstance(event, kind)]


@pytest.fixture
def rented(tmp_path: Path) -> Rented:
    return Rented(tmp_path)


def left_s(at_s: float | None) -> float:
    assert at_s is not None
    return at_s - boot_clock()


# ---- the supervisor --------------------------------------------------------------------------------------------------


def test_a_supervisor_sets_the_limit_and_renews_from_its_first_moment(rented: Rented) -> None:
    rented.tenancy.begin()
    assert left_s(rented.guard.limit_s) == pytest.approx(1000, abs=3)
    assert left_s(rented.guard.lease_s) == pytest.approx(LEASE_S, abs=3)
    assert rented.guard.on_lapse == "terminate"


def test_no_renewal_goes_beyond_the_limit(tmp_path: Path) -> None:
    rented = Rented(tmp_path, replace(JOB, limit_s=100.0))
    rented.tenancy.begin()
    contact(rented.run_folder)
    assert rented.guard.lease_s == rented.guard.limit_s


def test_a_restarted_supervisor_gets_no_new_limit(rented: Rented) -> None:
    (rented.run_folder / "elapsed.json").write_text(
        json.dumps({"machine": "cb-1", "elapsed_s": 900.0, "clock_s": boot_clock(), "boot": "an earlier one"})
    )
    rented.begin_again().begin()
    assert left_s(rented.guard.limit_s) == pytest.approx(100, abs=3)


def test_the_disk_is_kept_from_the_first_checkpoint_until_it_is_in_the_store(rented: Rented) -> None:
    rented.tenancy.begin()
    checkpoint = rented.commit(1)
    assert rented.guard.on_lapse == "stop"
    rented.store.arrived.add(checkpoint.manifest_sha256)
    rented.tenancy.beat()
    assert rented.guard.on_lapse == "terminate"
    rented.commit(2)
    assert rented.guard.on_lapse == "stop"


def test_a_supervisor_that_finds_a_checkpoint_protects_it_at_once(tmp_path: Path) -> None:
    rented = Rented(tmp_path)
    checkpoint = committed(rented.run_folder, 7)
    rented.tenancy.begin()
    assert rented.guard.on_lapse == "stop"
    assert rented.store.begun == [checkpoint]


def test_training_is_asked_to_stop_a_reserve_before_the_limit(rented: Rented) -> None:
    assert rented.tenancy.time_left_s == pytest.approx(1000 - JOB.reserve_s, abs=3)
    assert rented.tenancy.out_of_time is None


def test_the_reserve_follows_from_what_was_seen_and_a_change_is_told_once(tmp_path: Path) -> None:
    rented = Rented(tmp_path)
    rented.tenancy.begin()
    rented.commit(1)
    assert rented.said_of(wire.Decision) == [], "no upload was seen yet"
    rented.store.longest_s = 5.0
    rented.tenancy.beat()
    rented.tenancy.beat()
    [told] = rented.said_of(wire.Decision)
    assert isinstance(told, wire.Decision)
    assert told.what == "stop 70 s before the money is gone"
    assert rented.tenancy.time_left_s == pytest.approx(1000 - 70, abs=4)


@pytest.mark.parametrize(("answer", "proven", "warnings"), [("200", True, 0), ("401", False, 1)])
def test_what_the_probe_has_shown_is_said_once(rented: Rented, answer: str, proven: bool, warnings: int) -> None:
    rented.tenancy.begin()
    assert rented.said_of(wire.SelfReleased) == []
    (rented.root / "memory" / "proof").write_text(f"{answer}\n")
    rented.tenancy.beat()
    rented.tenancy.say_what_is_proven()
    [said] = rented.said_of(wire.SelfReleased)
    assert isinstance(said, wire.SelfReleased)
    assert said.proven is proven
    assert len(rented.said_of(wire.Warned)) == warnings


def test_a_probe_without_an_answer_is_told_before_training(rented: Rented) -> None:
    rented.tenancy.begin()
    rented.tenancy.say_what_is_proven()
    [said] = rented.said_of(wire.SelfReleased)
    assert isinstance(said, wire.SelfReleased)
    assert "not known yet" in said.outcome


def test_a_guard_that_cannot_be_started_again_is_told_once(rented: Rented) -> None:
    (rented.root / "memory" / "beat").unlink()
    rented.tenancy.begin()
    rented.tenancy.beat()
    [warning] = rented.said_of(wire.Warned)
    assert isinstance(warning, wire.Warned)
    assert "cannot be started" in warning.message


def test_a_run_whose_model_is_nowhere_else_waits_for_the_laptop(rented: Rented) -> None:
    rented.tenancy.begin()
    rented.commit(3)
    rented.tenancy.end(DEADLINE_REACHED)
    [last] = rented.said_of(wire.SelfReleased)
    assert isinstance(last, wire.SelfReleased)
    assert last.action == "stop"
    assert last.in_s == pytest.approx(1000, abs=5), "the limit comes before the hour is over"


def test_a_run_that_is_safe_elsewhere_ends_its_lease_at_once(rented: Rented) -> None:
    rented.tenancy.begin()
    rented.store.arrived.add(rented.commit(3).manifest_sha256)
    rented.tenancy.end(DEADLINE_REACHED)
    assert left_s(rented.guard.lease_s) <= 0
    assert rented.guard.on_lapse == "terminate"


def test_pictures_keep_no_disk_and_wait_a_little_for_whoever_asked_for_them(tmp_path: Path) -> None:
    wanted = wire.PictureJob("dog", "builtin:tiny", "/model", "lora", "a dog")
    rented = Rented(tmp_path, replace(JOB, pictures=wanted, wait_for_laptop_s=600.0))
    (rented.run_folder / wire.JOB_FILE).write_bytes(wire.dumps(rented.job))
    rented.tenancy.begin()
    made = committed(rented.run_folder, 4, wire.OUTPUT_FOLDER)
    rented.tenancy.heard(wire.Done(4, made.manifest_sha256))
    rented.tenancy.end(wire.Done(4, made.manifest_sha256))
    assert rented.guard.on_lapse == "terminate"
    assert left_s(rented.guard.lease_s) == pytest.approx(600, abs=5)


def test_a_run_that_ends_leaves_the_machine_to_another_that_is_at_work(rented: Rented) -> None:
    rented.tenancy.begin()
    other = folders.acquire(run_on(rented.root, "cat") / folders.SUPERVISOR_LOCK, wait_s=0)
    assert other is not None
    with other:
        rented.tenancy.end(wire.Stopped(0))
        assert left_s(rented.guard.lease_s) == pytest.approx(LEASE_S, abs=5)
    rented.tenancy.end(wire.Stopped(0))
    assert left_s(rented.guard.lease_s) <= 0


def test_a_machine_without_a_guard_has_a_limit_all_the_same(tmp_path: Path) -> None:
    run_folder = run_on(tmp_path)
    said: list[wire.Event] = []
    allowance = Allowance(run_folder, JOB.machine, None, 200.0)
    tenancy = Tenancy(run_folder, JOB, allowance, Store(), said.append)
    tenancy.begin()
    tenancy.end(wire.Stopped(0))
    assert tenancy.out_of_time is not None
    assert said == []


def test_without_a_limit_of_its_own_no_limit_is_set_and_no_reserve_is_told(tmp_path: Path) -> None:
    rented = Rented(tmp_path, replace(JOB, limit_s=None))
    rented.tenancy.begin()
    rented.store.longest_s = 500.0
    rented.commit(1)
    rented.tenancy.beat()
    assert rented.guard.limit_s is None
    assert left_s(rented.guard.lease_s) == pytest.approx(LEASE_S, abs=3)
    assert rented.said_of(wire.Decision) == []


def test_a_checkpoint_whose_beginning_was_not_heard_is_protected_and_says_nothing_of_its_pace(rented: Rented) -> None:
    rented.tenancy.begin()
    folder = committed(rented.run_folder, 1)
    rented.tenancy.heard(wire.CheckpointCommitted(1, folder.folder, folder.manifest_sha256, 1))
    assert (rented.guard.on_lapse, rented.store.begun) == ("stop", [folder])
    assert rented.tenancy.time_left_s == pytest.approx(1000 - JOB.reserve_s, abs=3), "no commit of zero seconds"


def test_a_guard_that_cannot_be_told_what_to_keep_is_told_of_once_and_then_tried_again(rented: Rented) -> None:
    rented.tenancy.begin()
    guard = rented.root / "work" / "guard"
    (guard / "on-lapse").unlink()
    in_the_way = guard / f".on-lapse.{os.getpid()}.tmp"
    in_the_way.mkdir()
    rented.commit(1)
    rented.tenancy.beat()
    [warning] = rented.said_of(wire.Warned)
    assert isinstance(warning, wire.Warned)
    assert "cannot be told what to keep" in warning.message
    in_the_way.rmdir()
    rented.tenancy.beat()
    assert rented.guard.on_lapse == "stop"


# ---- the laptop ------------------------------------------------------------------------------------------------------


def test_what_the_laptop_holds_verified_no_longer_keeps_the_disk(tmp_path: Path) -> None:
    guard, run_folder = guard_files(tmp_path), run_on(tmp_path)
    checkpoint = committed(run_folder, 5)
    assert only_copy.review(guard) == "stop"
    saved(run_folder, [checkpoint.manifest_sha256])
    saved(run_folder, [checkpoint.manifest_sha256])
    assert guard.on_lapse == "terminate"
    output = committed(run_folder, 5, wire.OUTPUT_FOLDER)
    assert only_copy.review(guard) == "stop"
    saved(run_folder, [output.manifest_sha256])
    assert guard.on_lapse == "terminate"


def test_one_run_does_not_give_away_the_only_copy_of_another(tmp_path: Path) -> None:
    guard = guard_files(tmp_path)
    committed(run_on(tmp_path, "cat"), 1)
    dog = committed(run_on(tmp_path, "dog"), 1)
    saved(run_on(tmp_path, "dog"), [dog.manifest_sha256])
    assert guard.on_lapse == "stop"


def test_a_run_that_is_forgotten_keeps_no_disk(tmp_path: Path) -> None:
    guard, run_folder = guard_files(tmp_path), run_on(tmp_path)
    committed(run_folder, 1)
    assert only_copy.review(guard) == "stop"
    agent.forget(run_folder, 1)
    assert guard.on_lapse == "terminate"


def test_a_laptop_that_only_listens_is_noted_and_renews_nothing(tmp_path: Path) -> None:
    guard, run_folder = guard_files(tmp_path), run_on(tmp_path)
    contact(run_folder, at(100.0), renew=False)
    assert (guard.contact_ago_s(130.0), guard.lease_s) == (30.0, None)
    contact(run_folder, at(200.0))
    assert (guard.contact_ago_s(200.0), guard.lease_s) == (0.0, 200.0 + LEASE_S)


@pytest.mark.parametrize(
    "verb",
    [
        ["status", "--run-folder", "RUN"], ["have", "--root", "RUN"], ["follow", "--run-folder", "RUN"],
        ["stop", "--run-folder", "RUN", "--epoch", "1"], ["saved", "--run-folder", "RUN", "--manifests", "[]"],
    ],
)  # fmt: skip
def test_every_call_of_the_laptop_renews_the_lease(tmp_path: Path, verb: list[str]) -> None:
    guard, run_folder = guard_files(tmp_path), run_on(tmp_path)
    call(*(word.replace("RUN", str(run_folder)) for word in verb), stdin="[]")
    assert left_s(guard.lease_s) == pytest.approx(LEASE_S, abs=10)


def test_a_machine_whose_boot_plan_had_no_guard_gets_one_by_a_call(tmp_path: Path) -> None:
    workdir = tmp_path / "work"
    workdir.mkdir()
    program = 'echo $$ >"$CLOUDBOOTH_GUARD_STATE/pid"; cut -d. -f1 /proc/uptime >"${0%/*}/beat"\n'
    program += 'echo "${0%/*}" >"$CLOUDBOOTH_GUARD_STATE/memory"\n'
    told = call("guard", "--workdir", str(workdir), stdin=program, CLOUDBOOTH_GUARD_MEMORY=str(tmp_path / "a memory"))
    assert wire.loads(wire.GuardStatus, told).alive
    found = GuardFiles.above(workdir / "runs" / "dog")
    assert found is not None
    assert (tmp_path / "a memory" / "guard.sh").stat().st_mode & 0o777 == 0o600


def test_the_status_carries_the_guard(tmp_path: Path) -> None:
    guard, run_folder = guard_files(tmp_path), run_on(tmp_path)
    assert agent.status(tmp_path / "elsewhere").guard is None
    guard.renew(100.0, 50.0)
    told = agent.status(run_folder, at(120.0)).guard
    assert told is not None
    assert (told.alive, told.lease_left_s) == (False, 30.0)


def at(second: float) -> Clocks:
    return Clocks(boot_clock=lambda: second)


def call(*argv: str, stdin: str, **environment: str) -> bytes:
    done = subprocess.run(
        [sys.executable, "-m", "remote_trainer", *argv], input=stdin.encode(), capture_output=True, timeout=30,
        check=False, cwd=Path(__file__).parents[2], env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
