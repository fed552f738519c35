"""What `export` hands to the trainer, decided from what is home."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.base_model import shipped_folder
from orchestrator.conversion import conversion_of, of_model, require_formats
from orchestrator.errors import RunConflict, UsageError
from orchestrator.finished_model import FinishedModel
from orchestrator.home import RunHome
from orchestrator.ledger import ArtifactRecord, Ledger, RunRecord
from orchestrator.spec import spec_to_json
from orchestrator.spec_file import spec_from_photos
from orchestrator.staging import stage_job
from remote_trainer import wire
from tests.e2e.command import PHOTOS
from tests.unit.fake_clock import FakeClock

SD, FLUX = "stable-diffusion-v1-5/stable-diffusion-v1-5", "black-forest-labs/FLUX.1-dev"
JOB = wire.Job(
    "dog", "dog", f"{SD}@abc", wire.TrainSpec(steps=20),
    (wire.DatasetSpec("instance", "instance", "data/instance", "a photo of sks dog"),), ("lora",),
)  # fmt: skip


def model(base: str = f"{SD}@abc", kind: wire.ModelKind = "lora") -> FinishedModel:
    path = Path("/models/dog/dog.safetensors")
    return FinishedModel("dog", path.parent, base, None, kind, path, None, (), None, "a photo", 512, "lora", "")


@pytest.fixture
def run(tmp_path: Path) -> RunRecord:
    ledger = Ledger(tmp_path / "ledger.sqlite3", FakeClock(0.0))
    ledger.add_run("dog", "local", spec_to_json(spec_from_photos(PHOTOS, "sks dog", ("name=dog",))), "{}")
    return ledger.run("dog")


@pytest.fixture
def home(tmp_path: Path) -> RunHome:
    home = RunHome(tmp_path / "runs" / "dog")
    stage_job(home, JOB)
    return home


def checkpoint(folder: Path, step: int) -> ArtifactRecord:
    folder.mkdir(parents=True)
    return ArtifactRecord("checkpoint", step, str(folder), "0" * 64)


def test_the_newest_checkpoint_stands_for_a_model_that_never_came(
    run: RunRecord, home: RunHome, tmp_path: Path
) -> None:
    artifacts = [checkpoint(tmp_path / "c10", 10), checkpoint(tmp_path / "c20", 20)]
    wanted = conversion_of(run, artifacts, home, ("kohya-lora",))
    assert (wanted.kind, wanted.source, wanted.job.formats) == ("checkpoint", str(tmp_path / "c20"), ("kohya-lora",))
    assert wanted.job.datasets == JOB.datasets, "whose words stand in the file"


def test_with_nothing_at_home_there_is_nothing_to_export(run: RunRecord, home: RunHome, tmp_path: Path) -> None:
    removed = ArtifactRecord("checkpoint", 10, str(tmp_path / "removed"), "0" * 64)
    with pytest.raises(RunConflict, match="nothing of run `dog` is here") as refused:
        conversion_of(run, [removed], home, ("lora",))
    assert refused.value.hint == "cloudbooth pull dog"


def test_the_base_is_the_one_that_was_pinned_or_lies_on_this_computer() -> None:
    assert of_model(model(), JOB, ("lora",)).job.base == f"{SD}@abc"
    assert of_model(model("/home/me/base"), JOB, ("lora",)).job.base_path == "/home/me/base"
    shipped = shipped_folder("builtin:toybox")
    assert shipped is not None
    assert of_model(model("builtin:toybox"), JOB, ("lora",)).job.base_path == str(shipped.path)


def test_formats_are_those_of_what_the_model_is_and_of_its_base() -> None:
    assert of_model(model(), JOB, ("single-file", "ckpt", "diffusers")).kind == "lora"
    with pytest.raises(UsageError, match="a whole model cannot be written as kohya-lora"):
        of_model(model(kind="diffusers"), JOB, ("kohya-lora",))
    with pytest.raises(UsageError, match="cannot be exported as single-file"):
        require_formats(FLUX, JOB.train, ("single-file",))
