"""Sample pictures of the run's prompts at fixed seeds, and the grids that put them side by side."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from . import wire
from .commit import file_entry
from .denoising import Denoising
from .encoded import PromptSource
from .families.api import Autoencoder
from .grids import grid
from .sampling import SamplerSettings, sample_latents, to_images, write_png
from .stopping import ShouldStop, check
from .thrift import twice
from .wire import Decision, SampleMade, TrainSpec

USUAL_GUIDANCE = 7.5
"""Of Stable Diffusion, for a job that states none; a plan always does."""
MAX_COLUMNS = 12
_MEMORY_HINT = "lower `train.resolution`, or rent a machine with more memory, and resume from the newest checkpoint"


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


def are_made(run_folder: Path, step: int, spec: TrainSpec) -> bool:
    """Whether nothing is left to be made at `step`."""
    return not is_due(step, spec) or all(path.exists() for path in picture_files(run_folder, step, spec))


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
    family = denoising.family
    autoencoder: Autoencoder | None = None

    def draw(prompt: str, index: int, thrifty: bool) -> Any:
        """The thrifty way, the denoiser sees one row at a time, and the host decodes."""
        nonlocal autoencoder
        if autoencoder is None or thrifty:
            autoencoder = family.load_autoencoder(torch.device("cpu") if thrifty else denoising.device)
        keys, text, empty = [("validation", spec.seed, index)], prompts.batch([prompt]), prompts.batch([""])
        latents = sample_latents(denoising, text, empty, keys, sampler_settings(spec), one_by_one=thrifty)
        return to_images(autoencoder, latents.cpu() if thrifty else latents)[0]

    def adapted(why: str) -> None:
        nonlocal autoencoder
        autoencoder = None
        emit(Decision("validation pictures are made row by row", f"memory ran out: {why}"))

    for index, (path, prompt) in enumerate(zip(files, spec.validation_prompts, strict=True)):
        if not path.exists():
            check(should_stop)
            image = twice(partial(draw, prompt, index), "making validation pictures", _MEMORY_HINT, adapted)
            write_png(image, path)
        emit(SampleMade(step, prompt, file_entry(path, run_folder)))
    sheet = grid([[path] for path in files], [f"step {step}"], spec.validation_prompts)
    write_png(sheet, files[0].parent / "grid.png")
    write_png(strip(run_folder, spec), run_folder / wire.VALIDATION_FOLDER / "strip.png")


def strip(run_folder: Path, spec: TrainSpec) -> Any:
    """A PIL image: a row for each prompt, a column for each step whose pictures are here, MAX_COLUMNS at most."""
    folders = sorted((run_folder / wire.VALIDATION_FOLDER).glob("step-*"), key=lambda folder: int(folder.name[5:]))
    steps = [int(folder.name[5:]) for folder in folders]
    whole = [step for step in steps if all(path.exists() for path in picture_files(run_folder, step, spec))]
    if len(whole) > MAX_COLUMNS:  # evenly spread, the first and the last among them
        whole = [whole[round(k * (len(whole) - 1) / (MAX_COLUMNS - 1))] for k in range(MAX_COLUMNS)]
    columns = [picture_files(run_folder, step, spec) for step in whole]
    rows = list(zip(*columns, strict=True))
    return grid(rows, [f"step {step}" for step in whole], spec.validation_prompts)


def before_after(run_folder: Path, spec: TrainSpec, step: int, path: Path) -> None:
    """One row for each prompt: the base's picture, the trained model's picture at `step`, or at the last one where none
    were made then.
    """
    before, after = picture_files(run_folder, 0, spec), picture_files(run_folder, step, spec)
    if not all(picture.exists() for picture in after):
        after = picture_files(run_folder, spec.steps, spec)
    rows = list(zip(before, after, strict=True))
    write_png(grid(rows, ["before", "after"], spec.validation_prompts), path)
