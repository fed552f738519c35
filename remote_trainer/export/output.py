"""`output/`: everything a finished run hands over, complete or not there."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from .. import adapters, validate, wire
from ..checkpoint import RunState
from ..commit import commit_folder, preparing, read_committed
from ..families.api import Family
from ..wire import Job, Manifest, PhaseStarted
from . import diffusers_folder, lora_file
from .digests import digests

_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "safetensors", "numpy", "pillow")


def finished(job: Job, run_folder: Path) -> Manifest | None:
    """The manifest of an output that an earlier attempt completed; every file is hashed."""
    manifest = read_committed(run_folder / wire.OUTPUT_FOLDER)
    return manifest if manifest is not None and manifest.step == job.train.steps else None


def write_output(
    job: Job,
    run_folder: Path,
    family: Family,
    denoiser: nn.Module,
    state: RunState,
    emit: Callable[[wire.Event], None],
) -> Manifest:
    """Exports, loads everything back, compares, commits. `denoiser` is consumed: its weights leave memory.

    Nothing depends on times, paths or restarts, so runs that trained the same bits write the same manifest.
    Raises TrainingFailed("export-mismatch"); then nothing appears under `output/`.
    """
    folder = run_folder / wire.OUTPUT_FOLDER
    with preparing(folder) as prepared:
        emit(PhaseStarted("export"))
        verify = _write_models(job, family, denoiser, prepared)
        if job.train.validation_prompts:
            validate.before_after(run_folder, job.train, prepared / "before-after.png")
        (prepared / "training.json").write_text(json.dumps(_record(job, family, state), indent=1) + "\n")
        emit(PhaseStarted("verify", "load every export back and compare it tensor by tensor"))
        for load_and_compare in verify:
            load_and_compare()
        return commit_folder(prepared, folder, state.step)


def _write_models(job: Job, family: Family, denoiser: nn.Module, prepared: Path) -> list[Callable[[], None]]:
    """Writes every model of the job and returns what verifies each; those hold digests and no weights."""
    spec, verify = job.train, list[Callable[[], None]]()
    if spec.method == "lora" and "lora" in job.formats:
        path = prepared / f"{job.name}.safetensors"
        tensors = adapters.lora_tensors(denoiser, (spec.lora_alpha or spec.lora_rank) / spec.lora_rank)
        lora_file.write(family, tensors, path)
        verify.append(partial(lora_file.verify, family, digests(tensors), path))
    if spec.method == "full" or "diffusers" in job.formats:
        if spec.method == "lora":
            adapters.fuse(denoiser)
        diffusers_folder.write(family, denoiser, prepared / "diffusers")
        verify.append(partial(diffusers_folder.verify, family, digests(denoiser.state_dict()), prepared / "diffusers"))
    # Whoever still refers to the denoiser now holds shapes only.
    denoiser.to("meta")
    return verify


def _record(job: Job, family: Family, state: RunState) -> dict[str, Any]:
    """`training.json`: how this model came to be, without a photograph and without a path of the host."""
    settings = wire.encode(job.train)
    settings |= {"learning_rate": state.frozen.learning_rate, "precision": state.frozen.precision}
    settings |= {"lora_alpha": job.train.lora_alpha or job.train.lora_rank}
    return {
        "name": job.name,
        "base": job.base,
        "family": family.name,
        "prediction": family.schedule.prediction,
        "steps": state.step,
        "settings": settings,
        "decided": wire.encode(state.frozen),
        "datasets": [
            {"id": spec.id, "role": spec.role, "prompt": spec.prompt, "pictures": len(spec.images) + spec.generate}
            for spec in job.datasets
        ],
        "evaluations": [wire.encode(evaluation) for evaluation in state.evaluations],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
    }
