"""Class images that the base makes of itself before it is trained: the prior that is to be preserved."""

from __future__ import annotations

from pathlib import Path

import torch

from .dataset.pictures import generated_files
from .denoising import Denoising
from .encoded import Prompts, encode_prompts
from .families.api import Family
from .sampling import SamplerSettings, sample_latents, to_images, write_png
from .stopping import ShouldStop, check
from .wire import DatasetSpec, Job

_BATCH = {"cuda": 4, "cpu": 1}


def missing(job: Job, run_folder: Path) -> int:
    """How many of the pictures the base is to make do not exist yet."""
    return sum(not path.exists() for spec in job.datasets for path in generated_files(run_folder, spec))


def prompts_of(job: Job, family: Family, device: torch.device) -> Prompts:
    """To be asked for before the denoiser is loaded: it and the text encoders need not fit into memory together."""
    texts = [spec.prompt for spec in job.datasets if spec.generate]
    return encode_prompts(family, [*texts, ""], device, lambda _: None)  # the encode phase says what is cut off


def generate(
    job: Job,
    run_folder: Path,
    denoising: Denoising,
    prompts: Prompts,
    settings: SamplerSettings,
    should_stop: ShouldStop,
) -> None:
    """Makes the missing pictures, each a function of (seed, dataset, index). Raises StopRequested between batches.

    Batches have fixed borders and are made whole when any picture of theirs is missing: the bits of a picture depend
    on the batch it was made in, so an interrupted run would otherwise end with other pictures than an undisturbed one.
    """
    for spec in job.datasets:
        if spec.generate:
            _generate(job, spec, run_folder, denoising, prompts, settings, should_stop)


def _generate(
    job: Job,
    spec: DatasetSpec,
    run_folder: Path,
    denoising: Denoising,
    prompts: Prompts,
    settings: SamplerSettings,
    should_stop: ShouldStop,
) -> None:
    device = denoising.device
    autoencoder = denoising.family.load_autoencoder(device)
    files = generated_files(run_folder, spec)
    files[0].parent.mkdir(parents=True, exist_ok=True)
    size = _BATCH[device.type]
    for first in range(0, len(files), size):
        batch = files[first : first + size]
        if all(path.exists() for path in batch):
            continue
        check(should_stop)
        keys = [("class", job.train.seed, spec.id, first + offset) for offset in range(len(batch))]
        text = prompts.batch([spec.prompt] * len(batch))
        latents = sample_latents(denoising, text, prompts.batch([""]), keys, settings)
        for path, image in zip(batch, to_images(autoencoder, latents), strict=True):
            if not path.exists():
                write_png(image, path)
