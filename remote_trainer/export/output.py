"""`output/`: everything a finished run hands over, complete or not there."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .. import adapters, validate, wire
from ..adapters import Trained
from ..checkpoint import RunState
from ..commit import commit_folder, preparing, read_committed
from ..errors import TrainingFailed
from ..families.api import Family, SingleFileFamily
from ..wire import Job, Manifest, PhaseStarted
from . import diffusers_folder, kohya_flux, kohya_lora, lora_file, original_config, single_file
from .digests import digests
from .model_card import model_card

_SINGLE_FILE_SUFFIXES = {"single-file": ".safetensors", "ckpt": ".ckpt"}
_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "safetensors", "numpy", "pillow")


def finished(job: Job, run_folder: Path) -> Manifest | None:
    """The manifest of an output that an earlier attempt completed; every file is hashed."""
    manifest = read_committed(run_folder / wire.OUTPUT_FOLDER)
    return manifest if manifest is not None and manifest.step == job.train.steps else None


def write_output(
    job: Job,
    run_folder: Path,
    family: Family,
    trained: Trained,
    state: RunState,
    step: int,
    emit: Callable[[wire.Event], None],
) -> Manifest:
    """Exports, loads everything back, compares, commits. `trained` is consumed: its weights leave memory.

    step: whose weights `trained` has, where they are not the last ones (`train.export_step`).

    Nothing depends on times, paths or restarts, so runs that trained the same bits write the same manifest.
    Raises TrainingFailed("export-mismatch"); then nothing appears under `output/`.
    """
    folder = run_folder / wire.OUTPUT_FOLDER
    with preparing(folder) as prepared:
        emit(PhaseStarted("export"))
        verify = write_models(job, family, trained, step, prepared)
        if job.train.validation_prompts:
            validate.before_after(run_folder, job.train, step, prepared / "before-after.png")
        record = _record(job, family, state, step)
        (prepared / "training.json").write_text(json.dumps(record, indent=1) + "\n")
        (prepared / "README.md").write_text(model_card(job, family, step, record["settings"]), "utf-8")
        emit(PhaseStarted("verify", "load every export back and compare it tensor by tensor"))
        for load_and_compare in verify:
            load_and_compare()
        return commit_folder(prepared, folder, state.step)


def rehearse(job: Job, family: Family, trained: Trained) -> None:
    """Writes the untrained adapter, loads it back and lets it go, where the job names the layers itself: whether every
    format has a place for them must not show after hours of training. Raises TrainingFailed("bad-job").
    """
    if not job.train.lora_targets:
        return
    with TemporaryDirectory() as folder:
        try:
            for load_and_compare in _write_adapter(job, family, trained, 0, Path(folder)):
                load_and_compare()
        except (TrainingFailed, ValueError) as error:
            message = f"an adapter on the layers of train.lora_targets cannot be exported: {error}"
            raise TrainingFailed("bad-job", message, "name other layers, or leave the format out") from error


def write_models(job: Job, family: Family, trained: Trained, step: int, prepared: Path) -> list[Callable[[], None]]:
    """Writes every model of the job and returns what verifies each; those hold digests and no weights."""
    verify = list[Callable[[], None]]()
    if job.train.method != "full":
        verify += _write_adapter(job, family, trained, step, prepared)
    wholes = [format_ for format_ in job.formats if format_ not in wire.ADAPTER_FORMATS]
    if job.train.method != "full" and wholes:
        adapters.fuse(trained)
    if "diffusers" in wholes:
        folder = prepared / "diffusers"
        diffusers_folder.write(family, trained, folder)
        texts = {component: digests(model.state_dict()) for component, model in trained.texts.items()}
        verify.append(
            partial(diffusers_folder.verify, family, digests(trained.denoiser.state_dict()), folder, texts=texts)
        )
    suffixes = [suffix for format_, suffix in _SINGLE_FILE_SUFFIXES.items() if format_ in wholes]
    if suffixes and isinstance(family, SingleFileFamily):
        verify += _write_single_files(job, family, trained, step, prepared, suffixes)
    # Whoever still refers to the models now holds shapes only.
    for model in (trained.denoiser, *trained.texts.values()):
        model.to("meta")
    return verify


def _write_adapter(job: Job, family: Family, trained: Trained, step: int, prepared: Path) -> list[Callable[[], None]]:
    verify = list[Callable[[], None]]()
    rank, alpha = job.train.lora_rank, job.train.lora_alpha or float(job.train.lora_rank)
    if "lora" in job.formats:
        path = prepared / f"{job.name}.safetensors"
        scaled = adapters.lora_tensors(trained.denoiser, alpha / rank)
        texts = adapters.text_lora_tensors(trained.texts, alpha / rank)
        lora_file.write(family, scaled, path, texts)
        known = {component: digests(tensors) for component, tensors in texts.items()}
        verify.append(partial(lora_file.verify, family, digests(scaled), path, known))
    if "kohya-lora" in job.formats and isinstance(family, SingleFileFamily):
        path = prepared / f"{job.name}-kohya.safetensors"
        factors = adapters.lora_tensors(trained.denoiser, 1.0)
        texts = adapters.text_lora_tensors(trained.texts, 1.0)
        renamed = kohya_lora.kohya_tensors(factors, alpha, family.single_file, texts)
        about = kohya_lora.metadata(family, renamed, rank, alpha, _origin(job, step))
        kohya_lora.write(renamed, about, path)
        known = {component: digests(tensors) for component, tensors in texts.items()}
        verify.append(partial(kohya_lora.verify, family, digests(renamed), digests(factors), alpha / rank, path, known))
    if "kohya-lora" in job.formats and not isinstance(family, SingleFileFamily):
        path = prepared / f"{job.name}-kohya.safetensors"
        factors = adapters.lora_tensors(trained.denoiser, 1.0)
        renamed = kohya_flux.kohya_tensors(factors, alpha)
        kohya_lora.write(renamed, kohya_flux.metadata(renamed, rank, alpha, _origin(job, step)), path)
        verify.append(partial(kohya_flux.verify, family, digests(renamed), factors, alpha / rank, path))
    return verify


def _write_single_files(
    job: Job, family: SingleFileFamily, trained: Trained, step: int, prepared: Path, suffixes: list[str]
) -> list[Callable[[], None]]:
    """`NAME_STEPS.safetensors` and `.ckpt`, with one `.yaml` for both where the tensors do not tell everything."""
    stem = prepared / f"{job.name}_{step}"
    tensors = single_file.tensors_of(family, trained.denoiser, trained.texts)
    for suffix in suffixes:
        single_file.write(tensors, stem.with_name(stem.name + suffix), step)
    config = stem.with_name(f"{stem.name}.yaml") if family.single_file.needs_config else None
    if config is not None:
        original_config.write(family.single_file, config)
    written = digests(tensors)
    return [
        partial(single_file.verify, family, written, stem.with_name(stem.name + suffix), config) for suffix in suffixes
    ]


def _origin(job: Job, step: int) -> kohya_lora.Origin:
    instance = [spec for spec in job.datasets if spec.role == "instance"]
    return kohya_lora.Origin(
        name=job.name,
        trigger=instance[0].prompt,
        captions=Counter(image.caption or spec.prompt for spec in instance for image in spec.images),
        resolution=job.train.resolution,
        steps=step,
        learning_rate=job.train.learning_rate or 0.0,
        seed=job.train.seed,
    )


def _record(job: Job, family: Family, state: RunState, step: int) -> dict[str, Any]:
    """`training.json`: how this model came to be, without a photograph and without a path of the host."""
    settings = wire.encode(job.train)
    settings |= {"learning_rate": state.frozen.learning_rate, "precision": state.frozen.precision}
    settings |= {"lora_alpha": job.train.lora_alpha or job.train.lora_rank}
    commits = {pin.set: pin.commit for pin in state.pins}
    return {
        "name": job.name,
        "base": job.base,
        "family": family.name,
        "prediction": family.schedule.prediction,
        "steps": state.step,
        "exported_step": step,
        "settings": settings,
        "decided": wire.encode(state.frozen),
        "datasets": [
            {"id": spec.id, "role": spec.role, "prompt": spec.prompt, "pictures": spec.pictures}
            | ({"repository": spec.fetch.url, "commit": commits[spec.id]} if spec.fetch else {})
            for spec in job.datasets
        ],
        "evaluations": [wire.encode(evaluation) for evaluation in state.evaluations],
        "best_step": wire.best_step(state.evaluations),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
    }
