"""From what a job calls its base to a `Family`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import TrainingFailed
from ..wire import Job
from .api import Family
from .flux import Flux1
from .flux2 import Flux2Klein
from .sd import StableDiffusion
from .sd3 import StableDiffusion3
from .sdxl import StableDiffusionXL

_FAMILIES: dict[str, Callable[[Path], Family]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux1,
    "Flux2KleinPipeline": Flux2Klein,
}


def open_base(base: str) -> Family:
    """base: a diffusers folder, or a hub id with optional `@revision`, which is downloaded (blocks for minutes).

    Raises TrainingFailed("base-not-found") when there is no such base, "bad-job" when its kind cannot be trained.
    """
    folder = Path(base) if Path(base).is_dir() else _download(base)
    try:
        kind = json.loads((folder / "model_index.json").read_bytes())["_class_name"]
    except (OSError, ValueError, KeyError) as error:
        message = f"{base} is no diffusers pipeline: it has no readable model_index.json"
        raise TrainingFailed("base-not-found", message, "give a folder written by `save_pretrained`") from error
    if kind not in _FAMILIES:
        known = ", ".join(sorted(_FAMILIES))
        raise TrainingFailed("bad-job", f"{base} is a {kind}, which cannot be trained yet", f"known kinds: {known}")
    return _FAMILIES[kind](folder)


def require_ways(family: Family, job: Job) -> None:
    """Raises TrainingFailed("bad-job") for a method or a format that the family does not have, text encoders that are
    to be trained and cannot, and pictures of a size that it cannot draw.
    """
    method = job.train.method
    if method not in family.formats:
        known = ", ".join(family.formats)
        message = f"a {family.name} cannot be trained by the method {method}"
        raise TrainingFailed("bad-job", message, f"set train.method to one of: {known}")
    if job.train.text_encoder_learning_rate is not None and (method == "dora" or not family.trainable_texts):
        message = f"the text encoders of a {family.name} cannot be trained by the method {method}"
        raise TrainingFailed("bad-job", message, "leave train.text_encoder_learning_rate out")
    if job.train.base_precision not in ("auto", "fp32") and "full" in family.formats:
        message = f"the weights of a {family.name} cannot be kept in {job.train.base_precision}"
        raise TrainingFailed("bad-job", message, "leave train.base_precision out: it is small enough")
    for chosen in job.formats:
        if chosen not in family.formats[method]:
            known = ", ".join(family.formats[method])
            message = f"a {family.name} trained by {method} has no format {chosen}"
            raise TrainingFailed("bad-job", message, f"leave it out of output.formats; there are: {known}")
    buckets = {(image.bucket_width, image.bucket_height) for each in job.datasets for image in each.images}
    if any(each.generate or each.fetch for each in job.datasets):
        buckets.add((job.train.resolution, job.train.resolution))
    for bucket in sorted(buckets):
        _require_size(family, bucket)


def _require_size(family: Family, bucket: tuple[int, int]) -> None:
    size, multiple = "×".join(map(str, bucket)), family.pixel_multiple
    if any(side % multiple for side in bucket):
        message = f"bucket {size} is no multiple of {multiple} pixels"
        raise TrainingFailed("bad-job", message, "make train.resolution a multiple of 64")
    if family.longest_side is not None and max(bucket) > family.longest_side:
        message = f"bucket {size} is longer than the {family.longest_side} pixels that the base has places for"
        raise TrainingFailed("bad-job", message, "choose a smaller train.resolution, or crop long pictures")


def _download(base: str) -> Path:
    from diffusers import DiffusionPipeline

    repository, _, revision = base.partition("@")
    if base.startswith(("/", ".", "~")) or repository.count("/") != 1:
        raise TrainingFailed("base-not-found", f"there is no folder {base} on the host")
    # The safety checker is 1.2 GB that training does not need; the export names it as absent.
    options: dict[str, Any] = {"revision": revision or None, "safety_checker": None, "feature_extractor": None}
    try:
        return Path(DiffusionPipeline.download(repository, **options))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = f"check the name at https://huggingface.co/{repository}; gated bases need HF_TOKEN on the host"
        raise TrainingFailed("base-not-found", f"{base} cannot be downloaded: {reason}", hint) from error
