"""The adapter alone, as the `.safetensors` that diffusers' `load_lora_weights` opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ..adapters import lora_tensors
from ..errors import TrainingFailed
from ..families.api import Family
from .digests import Digest, digests, require_equal

_ADAPTER = "exported"


def write(family: Family, tensors: dict[str, Tensor], path: Path) -> None:
    """tensors: from `adapters.lora_tensors`, scaled so that alpha = rank."""
    pipeline: Any = family.pipeline_class()
    layers = {f"{family.denoiser_folder}_lora_layers": tensors}
    pipeline.save_lora_weights(path.parent, weight_name=path.name, safe_serialization=True, **layers)


def verify(family: Family, written: dict[str, Digest], path: Path) -> None:
    """Loads the base's denoiser, loads the file onto it as a user would, compares every tensor and the scale.

    Raises TrainingFailed("export-mismatch").
    """
    pipeline = family.load_denoiser_pipeline()
    pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=_ADAPTER)
    denoiser = pipeline.components[family.denoiser_folder]
    require_equal("the LoRA file", written, digests(lora_tensors(denoiser, 1.0, _ADAPTER)))
    for name, module in denoiser.named_modules():
        scaling = getattr(module, "scaling", {}).get(_ADAPTER, 1.0)
        if scaling != 1.0:
            raise TrainingFailed("export-mismatch", f"the LoRA file loads with scale {scaling} at {name}, not 1")
