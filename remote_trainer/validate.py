"""Sample pictures of the run's prompts at fixed seeds, and the grids that put them side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import wire
from .commit import file_entry
from .denoising import Denoising
from .encoded import PromptSource
from .sampling import SamplerSettings, sample_latents, to_images, write_png
from .stopping import ShouldStop, check
from .wire import SampleMade, TrainSpec

USUAL_GUIDANCE = 7.5
"""Of Stable Diffusion, for a job that states none; a plan always does."""
_GAP, _CAPTION = 4, 14


def sampler_settings(spec: TrainSpec) -> SamplerSettings:
    guidance = USUAL_GUIDANCE if spec.validation_guidance_scale is None else spec.validation_guidance_scale
    return SamplerSettings(spec.validation_inference_steps, guidance, spec.resolution)


def is_due(step: int, spec: TrainSpec) -> bool:
    """At step 0, after every `validate_every`-th step and after the last one."""
    if not spec.validation_prompts:
        return False
    return step in (0, spec.steps) or (spec.validate_every > 0 and step % spec.validate_every == 0)


def picture_files(run_folder: Path, step: int, spec: TrainSpec) -> list[Path]:
    """`validation/step-000100/00.png` …, one for each prompt, whether they exist yet or not."""
    folder = run_folder / wire.VALIDATION_FOLDER / f"step-{step:06d}"
    return [folder / f"{index:02d}.png" for index in range(len(spec.validation_prompts))]


@torch.no_grad()
def make_pictures(
    run_folder: Path,
    step: int,
    spec: TrainSpec,
    denoising: Denoising,
    prompts: PromptSource,
    emit: Callable[[wire.Event], None],
    should_stop: ShouldStop,
) -> None:
    """Makes those pictures of `step` that do not exist yet, and their grid; announces all of them.

    A prompt's noise depends on (seed, prompt's place) only, so pictures of different steps differ by the training
    alone. Raises StopRequested between pictures. Twice is safe.
    """
    files = picture_files(run_folder, step, spec)
    files[0].parent.mkdir(parents=True, exist_ok=True)
    autoencoder = None
    for index, (path, prompt) in enumerate(zip(files, spec.validation_prompts, strict=True)):
        if not path.exists():
            check(should_stop)
            autoencoder = autoencoder or denoising.family.load_autoencoder(denoising.device)
            keys = [("validation", spec.seed, index)]
            settings = sampler_settings(spec)
            latents = sample_latents(denoising, prompts.batch([prompt]), prompts.batch([""]), keys, settings)
            write_png(to_images(autoencoder, latents)[0], path)
        emit(SampleMade(step, prompt, file_entry(path, run_folder)))
    write_png(grid([[path] for path in files], [f"step {step}"]), files[0].parent / "grid.png")


def before_after(run_folder: Path, spec: TrainSpec, path: Path) -> None:
    """One row for each prompt: the base's picture, the trained model's picture."""
    before, after = picture_files(run_folder, 0, spec), picture_files(run_folder, spec.steps, spec)
    write_png(grid([list(pair) for pair in zip(before, after, strict=True)], ["before", "after"]), path)


def grid(rows: list[list[Path]], columns: list[str]) -> Any:
    """A PIL image of equally sized pictures with a caption over each column; a row may be shorter than the first."""
    from PIL import Image, ImageDraw

    pictures = [[Image.open(path).convert("RGB") for path in row] for row in rows]
    width, height = pictures[0][0].size
    size = ((width + _GAP) * len(columns) + _GAP, (height + _GAP) * len(rows) + _GAP + _CAPTION)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for column, caption in enumerate(columns):
        left = _GAP + column * (width + _GAP)
        pen.text((left, 2), caption, fill="black")
        for row in range(len(rows)):
            if column < len(rows[row]):
                canvas.paste(pictures[row][column], (left, _CAPTION + _GAP + row * (height + _GAP)))
    return canvas
