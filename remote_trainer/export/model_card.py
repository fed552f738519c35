"""`README.md` beside the model: what it is, how to use it, how it came to be. No photograph, no path, no date."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..families.api import Family, SingleFileFamily
from ..wire import DatasetSpec, Job

_SHOWN = (
    "method", "steps", "resolution", "batch_size", "gradient_accumulation", "learning_rate", "lr_schedule",
    "prior_loss_weight", "lora_rank", "lora_alpha", "min_snr_gamma", "precision", "seed",
)  # fmt: skip
_PROGRAM_LICENSE = "apache-2.0"
"""Of this program, and so of the bases that it brings along."""


def model_card(job: Job, family: Family, step: int, settings: dict[str, Any]) -> str:
    """Markdown with the hub's front matter. step: whose weights these are. settings: as resolved, the `settings` of
    `training.json`.
    """
    instance = [spec for spec in job.datasets if spec.role == "instance"]
    prompts = sorted(
        {spec.prompt for spec in instance} | {i.caption for spec in instance for i in spec.images if i.caption}
    )
    license_ = _PROGRAM_LICENSE if job.base.startswith("builtin:") else license_of(family.folder)
    lines = [
        "---",
        f"base_model: {job.base.partition('@')[0]}",
        *([f"license: {license_}"] if license_ else []),
        f"instance_prompt: {json.dumps(prompts[0], ensure_ascii=False)}",  # YAML takes it
        "tags: [text-to-image, dreambooth, diffusers" + ("]" if job.train.method == "full" else ", lora]"),
        "---",
        "",
        f"# {job.name}",
        "",
        f"A {family.name} model that learned {_subjects(instance)} ({_method(job)}) from the base `{job.base}`.",
        "",
        *([f"Its weights are those of step {step}, which had the lowest loss.", ""] if step < job.train.steps else []),
        "Prompts it was trained with: " + ", ".join(f"“{prompt}”" for prompt in prompts[:20]),
        "",
        *(["![before and after](before-after.png)", ""] if job.train.validation_prompts else []),
        "| file | opens in |",
        "|---|---|",
        *(f"| `{file}` | {reader} |" for file, reader in _files(job, family, step)),
        "",
        "| trained on | pictures |",
        "|---|---|",
        *(f"| {spec.role}: “{spec.prompt}” | {spec.pictures} |" for spec in job.datasets),
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {key} | {settings[key]} |" for key in _SHOWN if _matters(job, key) and settings.get(key) is not None),
        "",
        "Everything else is in `training.json`.",
        "",
        _license(job, license_),
    ]
    return "\n".join(lines) + "\n"


def _license(job: Job, license_: str) -> str:
    if job.base.startswith("builtin:"):
        return f"License: {license_}, that of the program which the base `{job.base}` comes with."
    return (
        f"License: {license_} (the base's)." if license_ else f"License: that of the base `{job.base}`; see its page."
    )


def license_of(base: Path) -> str:
    """As the front matter of the base's own card states it; empty when it says nothing."""
    try:
        text = (base / "README.md").read_text(errors="replace")
    except OSError:
        return ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*(\S+)\s*$", front[1], re.MULTILINE) if front else None
    return found[1] if found else ""


def _subjects(instance: Sequence[DatasetSpec]) -> str:
    count = len({spec.prompt for spec in instance})
    return "one subject" if count == 1 else f"{count} subjects"


def _method(job: Job) -> str:
    names = {"full": "all weights of the denoiser", "lora": "LoRA", "dora": "DoRA"}
    return names[job.train.method] + ("" if job.train.method == "full" else f" of rank {job.train.lora_rank}")


def _matters(job: Job, key: str) -> bool:
    if key == "prior_loss_weight":
        return any(spec.role == "class" for spec in job.datasets)
    return not key.startswith("lora_") or job.train.method != "full"


def _files(job: Job, family: Family, step: int) -> list[tuple[str, str]]:
    whole = f"{job.name}_{step}"
    known = {
        "lora": (f"{job.name}.safetensors", _lora_readers(family)),
        "kohya-lora": (f"{job.name}-kohya.safetensors", "AUTOMATIC1111, ComfyUI: folder `Lora` or `loras`"),
        "diffusers": ("diffusers/", "diffusers: `DiffusionPipeline.from_pretrained`"),
        "single-file": (f"{whole}.safetensors", "AUTOMATIC1111, ComfyUI: folder `Stable-diffusion` or `checkpoints`"),
        "ckpt": (f"{whole}.ckpt", "older programs; a `.ckpt` can run code when opened, prefer `.safetensors`"),
    }
    files = [known[format_] for format_ in job.formats]
    in_one = bool({"single-file", "ckpt"} & set(job.formats))
    if in_one and isinstance(family, SingleFileFamily) and family.single_file.needs_config:
        files.append((f"{whole}.yaml", "AUTOMATIC1111: goes beside the single file, under the same name"))
    return files


def _lora_readers(family: Family) -> str:
    """ComfyUI knows the names that diffusers gives the layers of a transformer, and not those of a UNet."""
    also = "; ComfyUI: folder `loras`" if family.denoiser_folder == "transformer" else ""
    return f"diffusers: `pipe.load_lora_weights`{also}"
