"""A LoRA of Flux.1 in the names of kohya's trainers, which are those of the model's first publication.

There one layer answers query, key and value together, where diffusers has three. Adapters of rank r on n parts of a
layer make one of rank n·r: the A of all parts below each other, and each B in a block of its own, zero elsewhere. With
n times the alpha it means the same, and readers that know the parts find them again by the zeros.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..adapters import lora_tensors
from ..errors import TrainingFailed
from ..families.api import Family
from .digests import Digest, digests, require_equal
from .kohya_lora import Origin, described

_ADAPTER = "exported"
_QKV = ("q", "k", "v")


@dataclass(frozen=True)
class _Place:
    """Where a layer of diffusers stands in one of the first publication."""

    layer: str
    part: int = 0
    parts: int = 1


_TWO_STREAMS: Mapping[str, _Place] = {
    **{f"attn.to_{each}": _Place("img_attn_qkv", n, 3) for n, each in enumerate(_QKV)},
    **{f"attn.add_{each}_proj": _Place("txt_attn_qkv", n, 3) for n, each in enumerate(_QKV)},
    "attn.to_out.0": _Place("img_attn_proj"), "attn.to_add_out": _Place("txt_attn_proj"),
    "ff.net.0.proj": _Place("img_mlp_0"), "ff.net.2": _Place("img_mlp_2"),
    "ff_context.net.0.proj": _Place("txt_mlp_0"), "ff_context.net.2": _Place("txt_mlp_2"),
    "norm1.linear": _Place("img_mod_lin"), "norm1_context.linear": _Place("txt_mod_lin"),
}  # fmt: skip
_ONE_STREAM: Mapping[str, _Place] = {
    **{f"attn.to_{each}": _Place("linear1", n, 4) for n, each in enumerate(_QKV)},
    "proj_mlp": _Place("linear1", 3, 4), "proj_out": _Place("linear2"), "norm.linear": _Place("modulation_lin"),
}  # fmt: skip
_MLP_RATIO = 4
"""How much wider the last part of `linear1` is than the others, in every Flux.1."""


def kohya_tensors(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """tensors: unscaled factors under peft's names, A (rank, in) and B (out, rank). Raises TrainingFailed("bad-job")
    for a layer that has no place: one outside of the blocks.
    """
    merged: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
    parts: dict[str, int] = {}
    for name in tensors:
        if not name.endswith(".lora_A.weight"):
            continue
        layer = name.removesuffix(".lora_A.weight")
        stem, place = _place(layer)
        merged.setdefault(stem, {})[place.part] = (tensors[name], tensors[f"{layer}.lora_B.weight"])
        parts[stem] = place.parts
    renamed = {}
    for stem, present in merged.items():
        down, up = _joined(present, parts[stem])
        renamed[f"{stem}.lora_down.weight"], renamed[f"{stem}.lora_up.weight"] = down, up
        renamed[f"{stem}.alpha"] = torch.tensor(alpha * parts[stem])
    return renamed


def metadata(tensors: Mapping[str, Tensor], rank: int, alpha: float, origin: Origin) -> dict[str, str]:
    """As `kohya_lora.metadata`."""
    return described(tensors, rank, alpha, origin) | {
        "ss_network_module": "networks.lora_flux",
        "ss_base_model_version": "flux1",
        "modelspec.architecture": "flux-1-dev/lora",
        "modelspec.implementation": "https://github.com/black-forest-labs/flux",
    }


def verify(
    family: Family, written: Mapping[str, Digest], factors: Mapping[str, Tensor], scale: float, path: Path
) -> None:
    """Compares the file tensor by tensor, then loads it onto the base by diffusers and compares what it adds there.

    factors: as for `kohya_tensors`; scale: alpha/rank, which diffusers divides up between both. Parts of a layer that
    have no adapter get one there that adds nothing. Raises TrainingFailed("export-mismatch").
    """
    require_equal(f"the LoRA file {path.name}", written, digests(load_file(path)))
    pipeline = family.load_denoiser_pipeline()
    pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=_ADAPTER)
    loaded = lora_tensors(pipeline.components[family.denoiser_folder], 1.0, _ADAPTER)
    for name in sorted(factors.keys() | loaded.keys()):
        if name not in factors:
            same = ".lora_A." in name or bool((loaded[name] == 0).all())
        else:
            same = name in loaded and _proportional(loaded[name], factors[name])
        if not same:
            raise TrainingFailed("export-mismatch", f"{path.name} loads with another {name} than was trained")
    for layer in (name.removesuffix(".lora_A.weight") for name in factors if ".lora_A." in name):
        found = [_ratio(loaded[f"{layer}.lora_{each}.weight"], factors[f"{layer}.lora_{each}.weight"]) for each in "AB"]
        if None not in found and abs((found[0] or 0) * (found[1] or 0) - scale) > 1e-4 * scale:
            raise TrainingFailed("export-mismatch", f"{path.name} loads with another scale than {scale} at {layer}")


def _place(layer: str) -> tuple[str, _Place]:
    found = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", layer)
    place = (_ONE_STREAM if found[1] else _TWO_STREAMS).get(found[3]) if found else None
    if found is None or place is None:
        hint = "leave `kohya-lora` out of output.formats, or name layers of the blocks in train.lora_targets"
        raise TrainingFailed("bad-job", f"kohya's format has no place for an adapter on {layer}", hint)
    return f"lora_unet_{'single' if found[1] else 'double'}_blocks_{found[2]}_{place.layer}", place


def _joined(present: Mapping[int, tuple[Tensor, Tensor]], parts: int) -> tuple[Tensor, Tensor]:
    """(A, B) of a layer from those of its parts, by number."""
    if parts == 1:
        return present[0][0].contiguous(), present[0][1].contiguous()
    down, up = next(iter(present.values()))
    narrow = min(each[1].shape[0] for each in present.values())
    narrow = narrow // _MLP_RATIO if set(present) == {3} else narrow
    heights = [narrow * (_MLP_RATIO if part == 3 else 1) for part in range(parts)]
    absent = {part: (torch.zeros_like(down), up.new_zeros(heights[part], up.shape[1])) for part in range(parts)}
    chosen = [present.get(part, absent[part]) for part in range(parts)]
    return torch.cat([each[0] for each in chosen]), _diagonal([each[1] for each in chosen])


def _diagonal(blocks: list[Tensor]) -> Tensor:
    diagonal: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return diagonal.contiguous()


def _ratio(loaded: Tensor, factor: Tensor) -> float | None:
    """By how much it grew on the way; None for a factor of zeros."""
    length = factor.norm().item()
    return None if length == 0.0 else loaded.norm().item() / length


def _proportional(loaded: Tensor, factor: Tensor) -> bool:
    ratio = _ratio(loaded, factor)
    if ratio is None:
        return bool((loaded == 0).all())
    return torch.allclose(loaded, factor * ratio, rtol=1e-4, atol=1e-6 * factor.abs().max().item())
