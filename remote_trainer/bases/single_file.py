"""A base that is one file → the diffusers folder that every family opens: made once for each file."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from remote_trainer.bases.one_at_a_time import one_at_a_time
from remote_trainer.errors import TrainingFailed

SUFFIXES = (".safetensors", ".ckpt")


def unpacked(file: Path, config: str | None, cache_folder: Path) -> Path:
    """The folder `cache_folder/<file and config>-unpacked`, complete or not there: a kill leaves nothing that counts.

    config: hub id or diffusers folder whose configuration the file has; None lets diffusers choose by its tensors, and
    ask the hub for that configuration (not for weights). Holds the model in memory while it works; its numbers keep
    the precision they have. Raises TrainingFailed("base-not-found") for a file that is no model or holds more than
    tensors, and when the configuration cannot be had or does not fit.
    """
    key = _key(file, config)
    folder = cache_folder / f"{key}-unpacked"
    cache_folder.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(cache_folder / f".{key}.lock"):
        if (folder / "model_index.json").exists():
            return folder
        unfinished = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)  # of one that was killed: as large as the model
        try:
            _open(file, config).save_pretrained(unfinished)
            os.rename(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _open(file: Path, config: str | None) -> Any:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    dtypes = _dtypes(file)
    is_xl = any(name.startswith("conditioner.embedders.") for name in dtypes)
    of_denoiser = [dtype for name, dtype in dtypes.items() if name.startswith("model.diffusion_model.")]
    if not of_denoiser:
        raise TrainingFailed(
            "base-not-found", f"{file.name} holds no denoiser", "name a whole Stable Diffusion model, not a part of one"
        )
    options: dict[str, Any] = {} if is_xl else {"safety_checker": None, "feature_extractor": None}
    if config is not None:
        options["config"] = config
    pipeline: Any = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    try:
        return pipeline.from_single_file(str(file), torch_dtype=of_denoiser[0], **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise TrainingFailed(
            "base-not-found",
            f"{file.name} cannot be opened with {config or 'the configuration its tensors ask for'}: {_reason(error)}",
            "name the model whose shape it has: `--set model.config=stable-diffusion-v1-5/stable-diffusion-v1-5`",
        ) from error


def _dtypes(file: Path) -> Mapping[str, torch.dtype]:
    """Mapped, not read. A `.ckpt` is a pickle: only tensors are taken from it, code in it is refused, not run."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                return {name: opened.get_tensor(name).dtype for name in opened.keys()}  # noqa: SIM118
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, SafetensorError) as error:
        raise TrainingFailed(
            "base-not-found",
            f"{file.name} cannot be read as tensors alone: {_reason(error)}",
            "take the `.safetensors` of the same model: most sites have both",
        ) from error
    tensors = loaded.get("state_dict", loaded)
    return {name: value.dtype for name, value in tensors.items() if isinstance(value, torch.Tensor)}


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _key(file: Path, config: str | None) -> str:
    """Of the place and its last change: a file that travelled lies in a folder named by its hash."""
    seen = file.stat()
    text = f"{file.resolve()}\0{seen.st_size}\0{seen.st_mtime_ns}\0{config or ''}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]
