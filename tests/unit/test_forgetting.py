"""Forgetting a run: when it is refused, what it asks, what goes and what stays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import cli
from orchestrator.driver_lock import driver_lock
from orchestrator.errors import RunConflict
from orchestrator.forgetting import what_goes, why_not
from orchestrator.latecomers import RECHECK_S
from orchestrator.ledger import ArtifactRecord
from orchestrator.lifecycle import EndReason, State
from orchestrator.progress import Progress
from remote_trainer import wire
from tests.unit.recorded_run import RecordedRun


@pytest.fixture
def dog(isolated_home: Path) -> RecordedRun:
    """It is done, and its model is here."""
    run = RecordedRun(isolated_home / "cloudbooth")
    run.begin()
    run.interrupt()
    run.finish()
    return run


def forget(*more: str) -> Result:
    return CliRunner().invoke(cli, ["forget", "dog", *more], standalone_mode=False)


def test_its_records_and_folder_go_its_model_stays_and_its_name_is_free(dog: RecordedRun) -> None:
    done = forget("--json")
    assert done.exception is None, done.exception
    assert json.loads(done.stdout) == {
        "type": "summary", "run": "dog", "forgotten": True, "model": str(dog.output), "notes": [],
    }  # fmt: skip
    assert not dog.run_home.root.exists()
    assert (dog.output / "dog.safetensors").exists()
    assert (dog.ledger.runs(), dog.ledger.every_machine(), dog.ledger.artifacts("dog")) == ([], [], [])
    assert dog.ledger.moves("dog") == []
    dog.ledger.add_run("dog", "vast", "{}", "{}")


def test_the_model_goes_with_it_only_when_that_is_said_twice(dog: RecordedRun) -> None:
    refused = forget("--with-model", "--json")
    assert isinstance(refused.exception, RunConflict)
    assert "forget dog --with-model --yes" in refused.exception.hint
    assert dog.output.exists()
    assert dog.ledger.has_run("dog")
    assert forget("--with-model", "--yes", "--json").exception is None
    assert not dog.output.exists()


def test_a_run_that_goes_on_is_kept_whatever_is_said(isolated_home: Path) -> None:
    run = RecordedRun(isolated_home / "cloudbooth")
    run.begin()
    assert "goes on" in str(forget("--yes").exception)
    assert run.ledger.has_run("dog")


def test_a_run_that_somebody_drives_is_kept(dog: RecordedRun) -> None:
    with driver_lock(dog.run_home.driver_lock, "dog"):
        assert isinstance(forget("--yes").exception, RunConflict)
    assert dog.ledger.has_run("dog")


def test_what_may_still_bill_is_kept(dog: RecordedRun) -> None:
    run, [gone, _] = dog.ledger.run("dog"), dog.ledger.machines("dog")
    assert why_not(run, [gone], [], 0.0) is None
    conflict = why_not(run, [replace(gone, absent_at=None)], [], 0.0)
    assert conflict is not None
    assert "may still bill" in conflict.message


def test_a_picture_that_a_service_may_still_bill_keeps_run_and_model(dog: RecordedRun) -> None:
    dog.ledger.record_prediction_intent("cb-picture", "dog", "replicate", "me/dog:1", "{}", None)
    refused = forget("--with-model", "--yes").exception
    assert isinstance(refused, RunConflict)
    assert refused.message == "cb-picture may still bill"
    assert (dog.output / "dog.safetensors").exists()
    assert dog.run_home.root.exists()
    dog.ledger.record_prediction_over("cb-picture", "succeeded", 0.01)
    assert forget("--yes", "--json").exception is None


def test_a_machine_that_may_show_up_yet_is_waited_for(dog: RecordedRun) -> None:
    run, [gone, _] = dog.ledger.run("dog"), dog.ledger.machines("dog")
    never_seen = replace(gone, machine_id=None)
    assert why_not(run, [never_seen], [], gone.intent_at + RECHECK_S + 1) is None
    conflict = why_not(run, [never_seen], [], gone.intent_at + RECHECK_S - 3600)
    assert conflict is not None
    assert "in 1 h" in conflict.hint


def test_the_ledger_itself_refuses_a_run_that_is_not_over(isolated_home: Path) -> None:
    run = RecordedRun(isolated_home / "cloudbooth")
    run.move(State.RELEASING, "over", EndReason.CANCELED)
    with pytest.raises(RunConflict):
        run.ledger.forget_run("dog", run.epoch)
    assert run.ledger.has_run("dog")


CHECKPOINT = wire.CheckpointCommitted(200, "checkpoints/checkpoint-000200", "0" * 64, 1)


def test_a_checkpoint_that_resume_would_go_on_from_is_named(dog: RecordedRun, tmp_path: Path) -> None:
    run = dog.ledger.run("dog")
    here = ArtifactRecord("checkpoint", 100, str(tmp_path), "0" * 64)
    gone = ArtifactRecord("checkpoint", 100, str(tmp_path / "gone"), "0" * 64)
    told = Progress(checkpoints=(CHECKPOINT,))

    def loses(*artifacts: ArtifactRecord, progress: Progress = told, lies_elsewhere: bool = False) -> str:
        return what_goes(run, dog.run_home, progress, artifacts, lies_elsewhere=lies_elsewhere).loses

    assert "step 100" in loses(here)
    assert loses(gone) == ""
    assert "step 200" in loses(here, lies_elsewhere=True)
    assert loses(here, ArtifactRecord("output", 400, str(tmp_path), "0" * 64)) == ""


def test_a_model_that_never_came_home_is_named(dog: RecordedRun) -> None:
    told = Progress(done=wire.Done(400, "0" * 64))
    run = dog.ledger.run("dog")
    assert "never came home" in what_goes(run, dog.run_home, told, (), lies_elsewhere=True).loses
    assert what_goes(run, dog.run_home, told, (), lies_elsewhere=False).loses == ""
