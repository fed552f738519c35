"""A run of another laptop, entered here from its store: with which checkpoints it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.spec import RunSpec, spec_to_json
from orchestrator.storage.api import StorageError
from orchestrator.storage.folder import FolderStore
from orchestrator.storage.record import RECORD_NAME, RunInStore
from orchestrator.storage.run_store import RunStore
from orchestrator.takeover import take_over
from orchestrator.wiring import wire_up
from remote_trainer import wire
from remote_trainer.commit import commit_folder, preparing
from tests.fakes.told import Told


@dataclass(frozen=True)
class Began:
    """By another laptop; its machine has uploaded three checkpoints, and each was worse than the one before."""

    run: RunStore
    best_weights: str
    """Key."""


def began(folder: Path, export_step: str) -> Began:
    run = RunStore(FolderStore(folder / "store"), "dog-1")
    spec = RunSpec.model_validate_json(
        json.dumps(
            {
                "name": "dog",
                "subject": {"instance_prompt": "a photo of sks dog"},
                "data": {"instance": "/photos"},
                "compute": {"provider": "runpod"},
                "train": {"export_step": export_step},
                "output": {"folder": str(folder / "models")},
            }
        )
    )
    job = wire.Job("dog-1", "dog", "builtin:tiny", spec.train, (), ("lora",))
    record = RunInStore("dog", "runpod", spec_to_json(spec), "{}", job)
    run.store.put(f"{run.prefix}/{RECORD_NAME}", wire.dumps(record))
    losses = {100: 0.1, 200: 0.2, 300: 0.3}
    for step in losses:
        run.add("checkpoint", checkpoint(folder / str(step), step, losses))
    [best] = [found.key for found in run.store.objects(run.prefix) if found.key.endswith("100/weights")]
    return Began(run, best)


def checkpoint(folder: Path, step: int, losses: Mapping[int, float]) -> Path:
    told = [{"step": at, "mean_loss": loss} for at, loss in losses.items() if at <= step]
    with preparing(folder) as prepared:
        (prepared / "weights").write_bytes(f"{step}".encode())
        (prepared / wire.STATE_FILE).write_text(json.dumps({"evaluations": told}))
        commit_folder(prepared, folder, step)
    return folder


@pytest.mark.parametrize(("export_step", "steps"), [("last", [300]), ("best", [100, 300])])
def test_the_best_checkpoint_comes_along_where_the_model_is_to_be_that_of_it(
    export_step: str, steps: list[int], tmp_path: Path
) -> None:
    wiring = wire_up()
    take_over(wiring, "dog", began(tmp_path, export_step).run, Told())
    taken = wiring.ledger.artifacts("dog")
    assert [artifact.step for artifact in taken] == steps
    assert all((Path(artifact.folder) / wire.MANIFEST_NAME).is_file() for artifact in taken)


def test_a_best_checkpoint_that_is_damaged_is_told_and_the_run_goes_on_from_the_newest(tmp_path: Path) -> None:
    wiring, told, began_there = wire_up(), Told(), began(tmp_path, "best")
    began_there.run.store.put(began_there.best_weights, b"???")
    take_over(wiring, "dog", began_there.run, told)
    assert [artifact.step for artifact in wiring.ledger.artifacts("dog")] == [300]
    [note] = told.notes
    assert note.startswith("the best checkpoint could not be brought")
    assert wiring.ledger.has_run("dog")


def test_a_run_whose_newest_checkpoint_is_damaged_is_not_entered(tmp_path: Path) -> None:
    wiring, run = wire_up(), began(tmp_path, "last").run
    [newest] = [found.key for found in run.store.objects(run.prefix) if found.key.endswith("300/weights")]
    run.store.put(newest, b"???")
    with pytest.raises(StorageError, match="is damaged"):
        take_over(wiring, "dog", run, Told())
    assert not wiring.ledger.has_run("dog"), "it would begin anew"
