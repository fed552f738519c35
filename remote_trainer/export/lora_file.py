"""The adapter alone, as the `.safetensors` that diffusers' `load_lora_weights` opens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..adapters import lora_tensors, text_lora_tensors
from ..errors import TrainingFailed
from ..families.api import Family
from .digests import Digest, digests, require_equal

_ADAPTER = "exported"


_NO_TEXTS: Mapping[str, Mapping[str, Any]] = {}


def write(
    family: Family, tensors: dict[str, Tensor], path: Path, texts: Mapping[str, Mapping[str, Tensor]] = _NO_TEXTS
) -> None:
    """tensors, texts: from `adapters.lora_tensors` and `text_lora_tensors`, scaled so that alpha = rank."""
    pipeline: Any = family.pipeline_class()
    layers = {f"{family.denoiser_folder}_lora_layers": tensors}
    layers |= {f"{component}_lora_layers": dict(text) for component, text in texts.items()}
    pipeline.save_lora_weights(path.parent, weight_name=path.name, safe_serialization=True, **layers)


def verify(
    family: Family, written: dict[str, Digest], path: Path, texts: Mapping[str, Mapping[str, Digest]] = _NO_TEXTS
) -> None:
    """Loads the base's denoiser, loads the file onto it as a user would, compares every tensor and the scale; and those
    of the text encoders in `texts`. Raises TrainingFailed("export-mismatch").
    """
    pipeline = family.load_denoiser_pipeline(with_texts=bool(texts))
    pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=_ADAPTER)
    denoiser = pipeline.components[family.denoiser_folder]
    require_equal("the LoRA file", written, digests(lora_tensors(denoiser, 1.0, _ADAPTER)))
    loaded = text_lora_tensors({component: pipeline.components[component] for component in texts}, 1.0, _ADAPTER)
    for component, expected in texts.items():
        require_equal(f"the LoRA file's {component}", expected, digests(loaded[component]))
    for name, module in denoiser.named_modules():
        scaling = getattr(module, "scaling", {}).get(_ADAPTER, 1.0)
        if scaling != 1.0:
            raise TrainingFailed("export-mismatch", f"the LoRA file loads with scale {scaling} at {name}, not 1")
