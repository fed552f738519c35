"""Which of what a run has brought home is written in other formats, and as what: decided here, done by the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.base_model import shipped_folder
from orchestrator.errors import RunConflict, UsageError
from orchestrator.families import require_ways
from orchestrator.finished_model import FinishedModel, model_in
from orchestrator.home import RunHome
from orchestrator.ledger import ArtifactRecord, RunRecord
from orchestrator.picture_run import picture_record
from orchestrator.spec import RunSpec, spec_from_json
from orchestrator.staging import read_staged_job
from remote_trainer import wire


def conversion_of(
    run: RunRecord, artifacts: Sequence[ArtifactRecord], home: RunHome, formats: Sequence[wire.ExportFormat]
) -> wire.Conversion:
    """The run's model, or else its newest checkpoint, whatever is home. Reads the disk alone.

    Raises RunConflict when nothing is home, and UsageError for a model that is not whole and for formats that it cannot
    have.
    """
    if (pictures := picture_record(run.plan_json)) is not None:
        raise RunConflict(f"run `{run.name}` has made pictures, and no model", f"cloudbooth export {pictures.of} …")
    spec = spec_from_json(run.spec_json)
    here = [artifact for artifact in artifacts if Path(artifact.folder).is_dir()]
    output = next((artifact for artifact in reversed(here) if artifact.kind == "output"), None)
    checkpoint = next((artifact for artifact in reversed(here) if artifact.kind == "checkpoint"), None)
    if output is not None:
        return of_model(model_in(Path(output.folder), spec), _job(spec, home), formats)
    if checkpoint is None:
        raise RunConflict(f"nothing of run `{run.name}` is here to be exported", f"cloudbooth pull {run.name}")
    require_formats(spec.model.base, spec.train, formats)
    job = replace(_based_here(_job(spec, home), spec.model.base), formats=tuple(formats))
    return wire.Conversion(job, checkpoint.folder, "checkpoint", checkpoint.step)


def of_model(model: FinishedModel, trained: wire.Job, formats: Sequence[wire.ExportFormat]) -> wire.Conversion:
    """`trained`: the job of the run. Raises UsageError as `conversion_of`."""
    job = replace(_based_here(trained, model.base), base_config=model.base_config, formats=tuple(formats))
    train = trained.train if model.kind == "lora" else replace(trained.train, method="full")
    require_formats(model.base, train, formats)
    return wire.Conversion(job, str(model.path), model.kind, model.step)


def require_formats(base: str, train: wire.TrainSpec, formats: Sequence[wire.ExportFormat]) -> None:
    """Raises UsageError for one that a model trained like this does not have."""
    unfit = [each for each in formats if each not in wire.EVERY_FORMAT[train.method]]
    if unfit:
        known = ", ".join(wire.EVERY_FORMAT[train.method])
        what = "a whole model" if train.method == "full" else f"a {train.method}"
        raise UsageError(f"{what} cannot be written as {unfit[0]}", f"it can be written as: {known}")
    plain = replace(train, text_encoder_learning_rate=None, base_precision="auto")
    require_ways(base, "", plain, formats, [])


def _job(spec: RunSpec, home: RunHome) -> wire.Job:
    """As it was planned; a run of a service had none."""
    try:
        return read_staged_job(home)
    except RunConflict:
        prompt = spec.prompt_of(spec.picture_sets[0])
        subject = wire.DatasetSpec("instance", "instance", "data/instance", prompt)
        train = replace(spec.train, method="lora")
        return wire.Job(spec.name, spec.name, spec.model.base, train, (subject,), ())


def _based_here(job: wire.Job, base: str) -> wire.Job:
    """With the base as the trainer opens it on this computer."""
    shipped = shipped_folder(base)
    path = str(shipped.path) if shipped is not None else base if Path(base).is_absolute() else None
    return replace(job, base=job.base if path is not None else base, base_path=path)
