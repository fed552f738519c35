"""A model that a run has brought home, in formats it was not exported to: read, written, loaded back, compared.

LoRA        → the base with the adapter on it    → LoRA file, kohya's, or fused: diffusers folder, single file
checkpoint  → the base with what had trained     → the same
whole model → itself                             → diffusers folder, single file
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import adapters, wire
from ..adapters import NAME, Trained
from ..bases.resolve import resolve_base
from ..checkpoint import read_checkpoint
from ..commit import commit_folder, preparing
from ..errors import TrainingFailed
from ..families.api import Family
from ..families.detect import open_base, require_ways
from .output import write_models

CPU = torch.device("cpu")
_WHOLE = ("diffusers", "single-file")


def convert(wanted: wire.Conversion, workdir: Path, out: Path, emit: Callable[[wire.Event], None]) -> wire.Manifest:
    """Writes `wanted.job.formats` into `out`, which must not exist, and verifies each as the export of a run does.

    Blocks; all happens on the CPU. Raises TrainingFailed for a base or source that cannot be opened, for a format that
    it cannot have, and "export-mismatch"; nothing appears under `out` then.
    """
    emit(wire.PhaseStarted("load", wanted.kind))
    family = _opened(wanted, workdir / "bases")
    job = _job_of(wanted)
    require_ways(family, job)
    if wanted.kind == "lora":
        trained, job = _with_lora(family, Path(wanted.source), job)
    elif wanted.kind == "checkpoint":
        trained = _with_checkpoint(family, Path(wanted.source), job)
    else:
        trained = Trained(family.load_denoiser(CPU), {})
    with preparing(out) as prepared:
        emit(wire.PhaseStarted("export", ", ".join(job.formats)))
        verify = write_models(job, family, trained, wanted.step, prepared)
        emit(wire.PhaseStarted("verify", "load every export back and compare it tensor by tensor"))
        for load_and_compare in verify:
            load_and_compare()
        return commit_folder(prepared, out, wanted.step)


def _opened(wanted: wire.Conversion, bases: Path) -> Family:
    """What the source is trained on, or the source itself where it is whole; a single file has its base's shape."""
    base = wanted.job.base_path or wanted.job.base
    if wanted.kind == "diffusers":
        return open_base(wanted.source)
    if wanted.kind == "single-file":
        shape = base if Path(base).exists() else base.partition("@")[0]  # a configuration has no commit of its own
        return open_base(resolve_base(wanted.source, bases, wanted.job.base_config or shape))
    return open_base(resolve_base(base, bases, wanted.job.base_config))


def _job_of(wanted: wire.Conversion) -> wire.Job:
    """As if it had trained what the source is."""
    if wanted.kind not in _WHOLE:
        return wanted.job
    train = replace(
        wanted.job.train, method="full", lora_alpha=None, text_encoder_learning_rate=None, base_precision="auto"
    )
    return replace(wanted.job, train=train)


def _with_lora(family: Family, file: Path, job: wire.Job) -> tuple[Trained, wire.Job]:
    """The base with the adapter of a file on it, its scale multiplied into B, so that alpha is the rank."""
    from safetensors import safe_open

    with safe_open(file, "pt") as tensors:
        names = list(tensors.keys())
    has_texts = any(name.startswith(("lora_te", *family.trainable_texts)) for name in names)
    pipeline = family.load_denoiser_pipeline(with_texts=has_texts)
    if any(format_ not in wire.ADAPTER_FORMATS for format_ in job.formats):  # what is fused has to be the base's own
        pipeline.register_modules(**{family.denoiser_folder: family.load_denoiser(CPU)})
    try:
        pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=NAME)
    except (ValueError, KeyError, RuntimeError) as error:
        message = f"{file.name} does not fit onto {job.base}: {error}"
        raise TrainingFailed("bad-job", message, "was it trained on this base?") from None
    denoiser: nn.Module = pipeline.components[family.denoiser_folder]
    texts = {name: pipeline.components[name] for name in family.trainable_texts if has_texts}
    texts = {name: model for name, model in texts.items() if _adapted_layers(model)}
    ranks = {_absorb_scale(layer) for model in (denoiser, *texts.values()) for layer in _adapted_layers(model)}
    if len(ranks) != 1:
        message = f"{file.name} adapts {'no layer' if not ranks else 'layers at several ranks'} of {job.base}"
        raise TrainingFailed("bad-job", message, "it can be used as it is, and not be written anew")
    [rank] = ranks
    return Trained(denoiser, texts), replace(job, train=replace(job.train, lora_rank=rank, lora_alpha=float(rank)))


def _with_checkpoint(family: Family, folder: Path, job: wire.Job) -> Trained:
    """The base with what had trained up to there, or its average where the run keeps one."""
    found = read_checkpoint(folder)
    if found is None:
        raise TrainingFailed("bad-job", f"{folder} is no whole checkpoint", "`cloudbooth pull RUN` fetches it again")
    texts = {} if job.train.text_encoder_learning_rate is None else dict(family.load_text_encoder(CPU).models)
    trained = Trained(family.load_denoiser(CPU), texts)
    adapters.make_trainable(job.train, family, trained)
    found.restore_result(trained.parameters())
    return trained


def _adapted_layers(model: nn.Module) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]


@torch.no_grad()
def _absorb_scale(layer: Any) -> int:
    """Multiplies alpha/rank into B, which then means the same with alpha = rank. Returns the rank."""
    scale = float(layer.scaling[NAME])
    if not math.isclose(scale, 1.0):
        layer.lora_B[NAME].weight.mul_(scale)
        layer.scaling[NAME] = 1.0
    return int(layer.r[NAME])
