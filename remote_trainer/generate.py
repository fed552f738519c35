"""Pictures from a finished model, as a person asks for them: with the base's own pipeline, at consecutive seeds.

A seed's noise is drawn on the CPU, so that it is the same on every device; base and trained model get the same. Each
picture carries its settings in the form that AUTOMATIC1111 reads (PNG text `parameters`).
"""

from __future__ import annotations

import gc
import inspect
import io
import math
from pathlib import Path
from typing import Any

import torch

from . import wire
from .bases.resolve import resolve_base
from .commit import file_entry
from .errors import TrainingFailed
from .grids import grid
from .run_folder import write_atomically
from .sampling import write_png
from .stage import Emit
from .wire import PictureJob

SAMPLERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "ddim": ("DDIMScheduler", {}, "DDIM"),
    "dpm++-2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}, "DPM++ 2M"),
    "dpm++-2m-karras": (
        "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}, "DPM++ 2M Karras",
    ),
    "euler": ("EulerDiscreteScheduler", {}, "Euler"),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}, "Euler a"),
    "heun": ("HeunDiscreteScheduler", {}, "Heun"),
    "lms": ("LMSDiscreteScheduler", {}, "LMS"),
    "pndm": ("PNDMScheduler", {}, "PLMS"),
    "unipc": ("UniPCMultistepScheduler", {}, "UniPC"),
}  # fmt: skip
"""Name → diffusers class, its settings, and what AUTOMATIC1111 calls it."""
GRID = "grid.png"
COLUMNS = {False: ("trained",), True: ("base", "trained")}


def generate(job: PictureJob, workdir: Path, out: Path, emit: Emit) -> None:
    """Writes `<seed>.png` (and `<seed>-base.png`) and `grid.png` into `out`, each announced once it is there.

    Raises TrainingFailed for a base or model that cannot be loaded and for a sampler that the base cannot use.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not job.allow_cpu:
        raise TrainingFailed("no-gpu", "this machine has no GPU that works", "`--where here` asks your own computer")
    out.mkdir(parents=True, exist_ok=True)
    emit(wire.PhaseStarted("load"))
    base = ""
    if job.needs_base:
        base = resolve_base(
            job.base, workdir / "bases", job.base_config, lambda line: emit(wire.PhaseStarted("load", line))
        )
    made: dict[str, list[Path]] = {}
    pipeline: Any = None
    for column in COLUMNS[job.compare]:
        if pipeline is None or job.kind != "lora":
            pipeline = None
            gc.collect()  # two whole models need not fit at once
            pipeline = _pipeline(job, base, trained=column == "trained").to(device)
            pipeline.set_progress_bar_config(disable=True)
        if column == "trained" and job.kind == "lora":
            _load_lora(pipeline, job)
        sampler = _use_sampler(pipeline, job)
        emit(wire.PhaseStarted("draw", column))
        for index in range(job.count):
            seed = job.seed + index
            path = out / (f"{seed}.png" if column == "trained" else f"{seed}-base.png")
            _draw(pipeline, job, seed, path, job.name if column == "trained" else Path(job.base).name, sampler)
            made.setdefault(column, []).append(path)
            emit(wire.SampleMade(index, job.prompt, file_entry(path, out)))
    write_png(_grid(made), out / GRID)
    emit(wire.SampleMade(job.count, job.prompt, file_entry(out / GRID, out)))


def _pipeline(job: PictureJob, base: str, *, trained: bool) -> Any:
    """The base's, or that of a trained model that is one by itself."""
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

    dtype = torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    source, _, revision = base.partition("@") if not Path(base).exists() else (base, "", "")
    try:
        if trained and job.kind == "diffusers":
            return DiffusionPipeline.from_pretrained(job.model, torch_dtype=dtype)
        if trained and job.kind == "single-file":
            shape: Any = type(DiffusionPipeline.from_pretrained(source, revision=revision or None))
            loader = shape if hasattr(shape, "from_single_file") else StableDiffusionPipeline
            return loader.from_single_file(job.model, config=source, torch_dtype=dtype)
        return DiffusionPipeline.from_pretrained(source, revision=revision or None, torch_dtype=dtype)
    except OSError as error:
        raise TrainingFailed("base-not-found", f"{source} cannot be loaded: {error}", "look at `model.base`") from None


def _load_lora(pipeline: Any, job: PictureJob) -> None:
    path = Path(job.model)
    try:
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        message = f"{path.name} does not fit onto {job.base}: {error}"
        raise TrainingFailed("bad-job", message, "was it trained on this base?") from None


def _use_sampler(pipeline: Any, job: PictureJob) -> str:
    """Puts it in place and returns its name as AUTOMATIC1111 has it."""
    own = type(pipeline.scheduler).__name__
    if job.sampler is None:
        return next((shown for name, settings, shown in SAMPLERS.values() if name == own and not settings), own)
    if "FlowMatch" in own:
        raise TrainingFailed("bad-job", f"{job.base} flows and takes no sampler but its own", "leave out --sampler")
    import diffusers

    name, settings, shown = SAMPLERS[job.sampler]
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config, **settings)
    return shown


def _draw(pipeline: Any, job: PictureJob, seed: int, path: Path, model: str, sampler: str) -> None:
    wanted: dict[str, Any] = {
        "prompt": job.prompt, "negative_prompt": job.negative or None, "num_inference_steps": job.steps,
        "guidance_scale": job.guidance, "width": job.width, "height": job.height,
        "generator": torch.Generator("cpu").manual_seed(seed),
    }  # fmt: skip
    takes = inspect.signature(pipeline.__call__).parameters
    if job.negative and "negative_prompt" not in takes:
        raise TrainingFailed("bad-job", f"{job.base} takes no negative prompt", "leave out --negative")
    given = {key: value for key, value in wanted.items() if value is not None and key in takes}
    image = pipeline(**given).images[0]
    steps = job.steps or _default(takes, "num_inference_steps")
    guidance = job.guidance if job.guidance is not None else _default(takes, "guidance_scale")
    _write(image, path, parameters(job, seed, model, sampler, image.size, steps, guidance))


def _default(takes: Any, name: str) -> Any:
    return takes[name].default if name in takes else None


def parameters(
    job: PictureJob, seed: int, model: str, sampler: str, size: tuple[int, int], steps: object, guidance: object
) -> str:
    """The text by which AUTOMATIC1111 shows and repeats a picture."""
    settings = {
        "Steps": steps, "Sampler": sampler, "CFG scale": guidance, "Seed": seed, "Size": f"{size[0]}x{size[1]}",
        "Model": model, "Version": "cloudbooth",
    }  # fmt: skip
    lines = [job.prompt]
    if job.negative:
        lines.append(f"Negative prompt: {job.negative}")
    lines.append(", ".join(f"{key}: {value}" for key, value in settings.items() if value is not None))
    return "\n".join(lines)


def _write(image: Any, path: Path, text: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    info, buffer = PngInfo(), io.BytesIO()
    info.add_text("parameters", text)
    image.save(buffer, "PNG", pnginfo=info)
    write_atomically(path, buffer.getvalue())


def _grid(made: dict[str, list[Path]]) -> Any:
    """With the base: a row for each seed. Else as square as may be."""
    if len(made) > 1:
        return grid([list(row) for row in zip(*made.values(), strict=True)], list(made))
    [pictures] = made.values()
    wide = math.ceil(math.sqrt(len(pictures)))
    rows = [pictures[start : start + wide] for start in range(0, len(pictures), wide)]
    return grid(rows, [""] * wide)
