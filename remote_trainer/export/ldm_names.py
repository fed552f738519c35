"""Names and shapes of tensors in a single file, as the original latent-diffusion code gave them: a pure translation.

The layout is the one that AUTOMATIC1111, ComfyUI and diffusers' `from_single_file` read: UNet, autoencoder and text
encoder in one flat mapping, each under a prefix. Numbers are counted through where diffusers nests: block i, layer j
of a UNet with L layers a block is `input_blocks.(1 + i·(L+1) + j)`, and the block's downsampler takes the last of its
L+1 places; upward a block has L+1 layers and no place for its upsampler, which follows in the last one's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set

import torch
from torch import Tensor

from ..families.api import TextLayout

UNET_PREFIX = "model.diffusion_model."
AUTOENCODER_PREFIX = "first_stage_model."
CLIP_PREFIX = "transformer.text_model."
OPEN_CLIP_PREFIX = "model."
"""Both stand behind the place of the text encoder, such as `cond_stage_model.`."""

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}  # fmt: skip


def unet_tensors(tensors: Mapping[str, Tensor], layers_per_block: int) -> dict[str, Tensor]:
    """A UNet2DConditionModel's tensors under their names in a single file; shapes stay."""
    attended = {int(found[1]) for name in tensors if (found := re.match(r"up_blocks\.(\d+)\.attentions\.", name))}
    return {UNET_PREFIX + _unet_name(name, layers_per_block, attended): tensor for name, tensor in tensors.items()}


def autoencoder_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An AutoencoderKL's. The attention's projections (C, C) become 1×1 convolutions (C, C, 1, 1)."""
    levels = 1 + max(int(found[1]) for name in tensors if (found := re.match(r"decoder\.up_blocks\.(\d+)\.", name)))
    renamed = {}
    for name, tensor in tensors.items():
        is_projection = re.search(r"\.attentions\.0\.(to_[qkv]|to_out\.0)\.weight$", name) is not None
        shaped = tensor[:, :, None, None] if is_projection and tensor.ndim == 2 else tensor
        renamed[AUTOENCODER_PREFIX + _autoencoder_name(name, levels)] = shaped
    return renamed


def unet_layer(name: str, layers_per_block: int) -> str:
    """The place of a layer in a single file, without prefix; `name`: of any layer but an upsampler's."""
    return _unet_name(name, layers_per_block, frozenset())


def text_tensors(
    tensors: Mapping[str, Tensor], layout: TextLayout, prefix: str = "cond_stage_model."
) -> dict[str, Tensor]:
    """A CLIPTextModel's, saved by any version of transformers: those from 5.6 on leave the wrapper's name out.

    OpenCLIP holds query, key and value of a layer as one matrix (3·width, width), in this order, and multiplies by its
    projection (width, out) from the right: the transpose of a CLIPTextModelWithProjection's.
    """
    plain = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    plain.pop("embeddings.position_ids", None)  # a counter, which readers make themselves
    if layout == "clip":
        return {prefix + CLIP_PREFIX + name: tensor for name, tensor in plain.items()}
    return {prefix + OPEN_CLIP_PREFIX + name: tensor for name, tensor in _open_clip(plain).items()}


def _unet_name(name: str, layers_per_block: int, attended: Set[int]) -> str:
    """attended: the upward blocks with attention, where an upsampler comes third in its place and not second."""
    for inner, outer in _UNET_ENDS.items():
        if name.startswith(f"{inner}."):
            return _in_resnet(outer + name[len(inner) :]) if ".resnets." in name else outer + name[len(inner) :]
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    if found is None:
        raise ValueError(f"no single file has a place for the UNet's {name}")
    way, block, part, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    places = layers_per_block + 1
    if way == "down":
        if part == "downsamplers":
            return f"input_blocks.{(block + 1) * places}.0.{rest.replace('conv.', 'op.')}"
        place = f"input_blocks.{1 + block * places + layer}"
    else:
        place = f"output_blocks.{block * places + (layers_per_block if part == 'upsamplers' else layer)}"
    match part:
        case "resnets":
            return _in_resnet(f"{place}.0.{rest}")
        case "attentions":
            return f"{place}.1.{rest}"
    return f"{place}.{2 if block in attended else 1}.{rest}"


def _in_resnet(name: str) -> str:
    for inner, outer in _RESNET.items():
        if f".{inner}." in name:
            return name.replace(f".{inner}.", f".{outer}.")
    raise ValueError(f"no single file has a place for {name}")


def _autoencoder_name(name: str, levels: int) -> str:
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1")
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda found: f"up.{levels - 1 - int(found[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"up.{levels - 1 - int(found[1])}.upsample", name)
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if ".attn_1." in name:
        for inner, outer in _ATTENTION.items():
            name = name.replace(f".attn_1.{inner}.", f".attn_1.{outer}.")
    return name


def _open_clip(plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in plain.items():
        if name == "text_projection.weight":
            renamed["text_projection"] = tensor.T
            continue
        found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if found is None:
            renamed[_open_clip_end(name)] = tensor
            continue
        layer, part, kind = f"transformer.resblocks.{found[1]}", found[2], found[3]
        if part == "self_attn.q_proj":
            parts = [plain[f"encoder.layers.{found[1]}.self_attn.{which}_proj.{kind}"] for which in "qkv"]
            renamed[f"{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif part in _OPEN_CLIP_LAYER:
            renamed[f"{layer}.{_OPEN_CLIP_LAYER[part]}.{kind}"] = tensor
    return renamed


def _open_clip_end(name: str) -> str:
    ends = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    if name not in ends:
        raise ValueError(f"no single file has a place for the text encoder's {name}")
    return ends[name]
