"""The adapter in the names and with the metadata of kohya's trainers, as AUTOMATIC1111 and ComfyUI open it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ..adapters import lora_tensors, text_lora_tensors
from ..errors import TrainingFailed
from ..families.api import Architecture, SingleFileFamily, SingleFileLayout
from . import ldm_names
from .digests import Digest, digests, require_equal

_ADAPTER = "exported"
_DENOISER_PREFIX = "lora_unet_"
_FACTORS = {"lora_A": "lora_down", "lora_B": "lora_up"}
_BASE_VERSION: dict[Architecture, str] = {"sd-1": "sd_v1", "sd-2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
_MODELSPEC: dict[Architecture, str] = {
    "sd-1": "stable-diffusion-v1", "sd-2": "stable-diffusion-v2", "sdxl": "stable-diffusion-xl-v1-base",
}  # fmt: skip
_IMPLEMENTATION: dict[Architecture, str] = {
    "sd-1": "https://github.com/Stability-AI/stablediffusion",
    "sd-2": "https://github.com/Stability-AI/stablediffusion",
    "sdxl": "https://github.com/Stability-AI/generative-models",
}


@dataclass(frozen=True)
class Origin:
    """What the metadata tells a person who finds the file in a folder of hundreds."""

    name: str
    trigger: str
    """The prompt that the subject was learned under."""
    captions: Mapping[str, int]
    """How many photos were trained under each."""
    resolution: int
    steps: int
    learning_rate: float
    seed: int


_NO_TEXTS: Mapping[str, Mapping[str, Any]] = {}


def kohya_tensors(
    tensors: Mapping[str, Tensor],
    alpha: float,
    layout: SingleFileLayout | None = None,
    texts: Mapping[str, Mapping[str, Tensor]] = _NO_TEXTS,
) -> dict[str, Tensor]:
    """peft's names (`….to_q.lora_A.weight`) in kohya's spelling, and the true alpha of each layer beside its factors.

    tensors: unscaled factors, A (rank, in) and B (out, rank); a reader multiplies B·A by alpha/rank. layout: of the
    base; kohya's trainers name SDXL's layers by their places in a single file, others (and None) as diffusers does.
    texts: the same of text encoders, by component, from `adapters.text_lora_tensors`.
    """
    renamed = {}
    for component, text in texts.items():
        number = "" if layout is None or len(layout.texts) == 1 else "2" if component.endswith("_2") else "1"
        for name, tensor in text.items():
            layer, _, factor = name.removesuffix(".weight").rpartition(".")
            stem = f"lora_te{number}_{layer.replace('.', '_')}"
            renamed[f"{stem}.{_FACTORS[factor]}.weight"] = tensor.contiguous()
            renamed[f"{stem}.alpha"] = torch.tensor(alpha)
    for name, tensor in tensors.items():
        layer, _, factor = name.removesuffix(".weight").rpartition(".")
        if layout is not None and layout.architecture == "sdxl":
            layer = ldm_names.unet_layer(layer, layout.unet["layers_per_block"])
        stem = _DENOISER_PREFIX + layer.replace(".", "_")
        renamed[f"{stem}.{_FACTORS[factor]}.weight"] = tensor.contiguous()
        renamed[f"{stem}.alpha"] = torch.tensor(alpha)
    return renamed


def metadata(
    family: SingleFileFamily, tensors: Mapping[str, Tensor], rank: int, alpha: float, origin: Origin
) -> dict[str, str]:
    """All values are text. Nothing depends on the time: equal weights make equal files."""
    architecture = family.single_file.architecture
    velocity = family.schedule.prediction == "v_prediction"
    return described(tensors, rank, alpha, origin) | {
        "ss_network_module": "networks.lora",
        "ss_base_model_version": _BASE_VERSION[architecture],
        "ss_v2": str(architecture == "sd-2"),
        "modelspec.architecture": f"{_MODELSPEC[architecture]}/lora",
        "modelspec.implementation": _IMPLEMENTATION[architecture],
        "modelspec.prediction_type": "v" if velocity else "epsilon",
    }


def described(tensors: Mapping[str, Tensor], rank: int, alpha: float, origin: Origin) -> dict[str, str]:
    """What the metadata says whatever the family. `sshs_model_hash` is kohya's: the sha256 of the file behind its
    header.
    """
    body = save(dict(tensors))
    behind_header = body[8 + struct.unpack("<Q", body[:8])[0] :]
    return {
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_output_name": origin.name,
        "ss_steps": str(origin.steps),
        "ss_learning_rate": f"{origin.learning_rate:g}",
        "ss_seed": str(origin.seed),
        "ss_resolution": f"({origin.resolution}, {origin.resolution})",
        "ss_tag_frequency": json.dumps({origin.name: dict(origin.captions)}),
        "sshs_model_hash": hashlib.sha256(behind_header).hexdigest(),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": origin.name,
        "modelspec.trigger_phrase": origin.trigger,
        "modelspec.resolution": f"{origin.resolution}x{origin.resolution}",
    }


def write(tensors: Mapping[str, Tensor], about: Mapping[str, str], path: Path) -> None:
    """tensors: from `kohya_tensors`; about: from `metadata`. Equal arguments make equal files.

    The library writes its metadata in an order that changes from process to process, so the header is written anew:
    8 bytes of length, JSON, and blanks up to a multiple of 8, as its format says.
    """
    raw = save(dict(tensors), metadata=dict(about))
    behind_header = 8 + struct.unpack("<Q", raw[:8])[0]
    header = json.dumps(json.loads(raw[8:behind_header]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + raw[behind_header:])


def verify(
    family: SingleFileFamily,
    written: Mapping[str, Digest],
    adapter: Mapping[str, Digest],
    scale: float,
    path: Path,
    texts: Mapping[str, Mapping[str, Digest]] = _NO_TEXTS,
) -> None:
    """Compares the file tensor by tensor, then loads it onto the base by diffusers and compares factors and scale.

    adapter, texts: digests of the unscaled factors under peft's names; scale: alpha/rank. Raises
    TrainingFailed("export-mismatch").
    """
    require_equal(f"the LoRA file {path.name}", written, digests(load_file(path)))
    pipeline: Any = family.load_denoiser_pipeline(with_texts=bool(texts))
    pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=_ADAPTER)
    denoiser = pipeline.components[family.denoiser_folder]
    require_equal(f"{path.name} in diffusers", adapter, digests(lora_tensors(denoiser, 1.0, _ADAPTER)))
    encoders = {component: pipeline.components[component] for component in texts}
    for component, tensors in text_lora_tensors(encoders, 1.0, _ADAPTER).items():
        require_equal(f"{path.name}'s {component} in diffusers", texts[component], digests(tensors))
    for name, module in (each for model in (denoiser, *encoders.values()) for each in model.named_modules()):
        loaded = getattr(module, "scaling", {}).get(_ADAPTER, scale)
        if abs(loaded - scale) > 1e-6 * scale:
            raise TrainingFailed("export-mismatch", f"{path.name} loads with scale {loaded} at {name}, not {scale}")
