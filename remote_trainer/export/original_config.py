"""The `.yaml` beside a single file, in the words of the original latent-diffusion code, and the proof that it is true.

AUTOMATIC1111 builds the model that this file describes and then fills in the tensors. What they cannot tell (what the
model predicts, over which noise, with how many heads) is wrong there without a word when it is wrong here.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import TrainingFailed
from ..families.api import SingleFileLayout
from .digests import Digest
from .ldm_names import AUTOENCODER_PREFIX, CLIP_PREFIX, OPEN_CLIP_PREFIX, UNET_PREFIX

Shapes = Mapping[str, tuple[int, ...]]
"""Of a single file's tensors, by name."""
NORM_GROUPS = 32
"""Of every normalization in the original code, which has no word for another number."""
_CONDITIONERS = {CLIP_PREFIX: "FrozenCLIPEmbedder", f"{OPEN_CLIP_PREFIX}transformer.": "FrozenOpenCLIPEmbedder"}
"""By what stands behind the text encoder's place."""


@dataclass(frozen=True)
class Described:
    """What a reader of the file builds, in its own order."""

    parameterization: str
    noise: tuple[float, float, int]
    """β of the first and the last timestep, and how many there are."""
    latent_scale: float
    conditioner: str
    """The text encoder's class."""
    channels: tuple[int, int]
    """That the UNet takes and gives."""
    width: int
    """Of the UNet's first layer: `model_channels`."""
    context_dim: int
    blocks: tuple[tuple[int, int | None], ...]
    """Of the UNet's way down, from `input_blocks.1` on: channels, and how many transformer blocks attend to the text;
    None for what only halves the picture.
    """
    heads: tuple[int, ...]
    """Of each level that attends to the text."""
    linear: bool
    """Its projections are matrices, no 1×1 convolutions."""
    latent_channels: int
    autoencoder: tuple[tuple[int, ...], ...]
    """Channels of each layer of each level of the encoder."""


def write(layout: SingleFileLayout, path: Path) -> None:
    path.write_text(config_text(layout))


def verify(layout: SingleFileLayout, written: Mapping[str, Digest], path: Path) -> None:
    """Reads the file as its readers do and compares it with the tensors beside it and with the base's own numbers.

    Raises TrainingFailed("export-mismatch") with the first thing that it says otherwise, or when it cannot be read.
    """
    import yaml

    hint = "the checkpoint is kept; please report this with the versions in `training.json`"
    shapes = {name: digest.shape for name, digest in written.items()}
    try:
        said = said_by(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise TrainingFailed("export-mismatch", f"{path.name} cannot be read back: {error!r}", hint) from error
    if problem := disagreement(said, shown_by(layout, shapes)):
        raise TrainingFailed("export-mismatch", f"{path.name} does not say what the model is: {problem}", hint)


def disagreement(said: Described, shown: Described) -> str:
    """The first part in which they differ; empty when there is none."""
    for field in fields(Described):
        says, is_ = getattr(said, field.name), getattr(shown, field.name)
        if says != is_:
            return f"{field.name.replace('_', ' ')} {says} in place of {is_}"
    return ""


def for_diffusers(layout: SingleFileLayout) -> bool:
    """Whether diffusers can build the model from this file (`original_config`): it takes the number of groups as that
    of the original code, and knows heads of one size only beside projections that are matrices.
    """
    groups = {layout.unet.get("norm_num_groups", NORM_GROUPS), layout.autoencoder.get("norm_num_groups", NORM_GROUPS)}
    heads_are_said = isinstance(layout.unet["attention_head_dim"], int) or layout.unet.get("use_linear_projection")
    return groups == {NORM_GROUPS} and bool(heads_are_said)


def said_by(config: Any) -> Described:
    """By a file of this form, whoever wrote it. Raises KeyError, TypeError or ValueError for what is none."""
    params = config["model"]["params"]
    unet, coder = params["unet_config"]["params"], params["first_stage_config"]["params"]["ddconfig"]
    width = int(unet["model_channels"])
    levels = [int(multiple) * width for multiple in unet["channel_mult"]]
    attended = [2**level in unet["attention_resolutions"] for level in range(len(levels))]
    depth = int(unet["transformer_depth"])
    blocks = list[tuple[int, int | None]]()
    for level, (channels, attends) in enumerate(zip(levels, attended, strict=True)):
        blocks += [(channels, depth if attends else 0)] * int(unet["num_res_blocks"])
        blocks += [(channels, None)] * (level < len(levels) - 1)
    size = unet.get("num_head_channels", -1)
    return Described(
        parameterization=params.get("parameterization", "eps"),
        noise=(_number(params["linear_start"]), _number(params["linear_end"]), int(params["timesteps"])),
        latent_scale=_number(params["scale_factor"]),
        conditioner=params["cond_stage_config"]["target"].rpartition(".")[2],
        channels=(int(unet["in_channels"]), int(unet["out_channels"])),
        width=width,
        context_dim=int(unet["context_dim"]),
        blocks=tuple(blocks),
        heads=tuple(
            int(unet["num_heads"]) if size == -1 else channels // size
            for channels, attends in zip(levels, attended, strict=True)
            if attends
        ),
        linear=bool(unet.get("use_linear_in_transformer", False)),
        latent_channels=int(coder["z_channels"]),
        autoencoder=tuple(
            (int(multiple) * int(coder["ch"]),) * int(coder["num_res_blocks"]) for multiple in coder["ch_mult"]
        ),
    )


def shown_by(layout: SingleFileLayout, shapes: Shapes) -> Described:
    """By the tensors, and by the base's own configuration for what no tensor shows."""
    unet = {name.removeprefix(UNET_PREFIX): shape for name, shape in shapes.items() if name.startswith(UNET_PREFIX)}
    width, channels = unet["input_blocks.0.0.weight"][:2]
    heads = layout.unet["attention_head_dim"]
    attended = [kind.startswith("CrossAttn") for kind in layout.unet["down_block_types"]]
    scheduler, text = layout.scheduler, layout.texts[0].prefix
    return Described(
        parameterization="v" if layout.prediction == "v_prediction" else "eps",
        noise=(scheduler["beta_start"], scheduler["beta_end"], scheduler.get("num_train_timesteps", 1000)),
        latent_scale=layout.autoencoder.get("scaling_factor", 0.18215),
        conditioner=next(
            (name for inner, name in _CONDITIONERS.items() if any(each.startswith(text + inner) for each in shapes)), ""
        ),
        channels=(channels, unet["out.2.weight"][0]),
        width=width,
        context_dim=next(shape[1] for name, shape in unet.items() if name.endswith(".attn2.to_k.weight")),
        blocks=tuple(_blocks(unet)),
        heads=tuple(
            heads if isinstance(heads, int) else heads[level] for level, attends in enumerate(attended) if attends
        ),
        linear=next(len(shape) for name, shape in unet.items() if name.endswith(".1.proj_in.weight")) == 2,
        latent_channels=shapes[f"{AUTOENCODER_PREFIX}decoder.conv_in.weight"][1],
        autoencoder=tuple(_encoder_levels(shapes)),
    )


def _blocks(unet: Shapes) -> Iterator[tuple[int, int | None]]:
    """As in `Described`; unet: by names without prefix."""
    for place in itertools.count(1):
        block = f"input_blocks.{place}"
        if f"{block}.0.op.weight" in unet:
            yield unet[f"{block}.0.op.weight"][0], None
        elif f"{block}.0.in_layers.2.weight" in unet:
            depths = itertools.count()
            attended = f"{block}.1.transformer_blocks"
            yield (
                unet[f"{block}.0.in_layers.2.weight"][0],
                next(depth for depth in depths if f"{attended}.{depth}.norm1.weight" not in unet),
            )
        else:
            return


def _encoder_levels(shapes: Shapes) -> Iterator[tuple[int, ...]]:
    for level in itertools.count():
        layers = [f"{AUTOENCODER_PREFIX}encoder.down.{level}.block.{layer}.conv1.weight" for layer in range(9)]
        if layers[0] not in shapes:
            return
        yield tuple(shapes[name][0] for name in layers if name in shapes)


def _number(value: Any) -> float:
    """YAML takes `1e-05`, which JSON may say, for a text. Raises TypeError for one."""
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def config_text(layout: SingleFileLayout) -> str:
    """The numbers of an SD 1.x or 2.x in the words of the original configuration files. JSON is YAML."""
    unet, vae = layout.unet, layout.autoencoder
    width = unet["block_out_channels"][0]
    attention = {
        "attention_resolutions": [
            2**level for level, kind in enumerate(unet["down_block_types"]) if kind.startswith("CrossAttn")
        ],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": bool(unet.get("use_linear_projection", False)),
        "transformer_depth": unet.get("transformer_layers_per_block", 1),
        "context_dim": unet["cross_attention_dim"],
        "legacy": False,
    }
    heads = unet["attention_head_dim"]
    # Diffusers gives the number of heads under the name of their size; lists are one for each block.
    attention |= {"num_heads": heads} if isinstance(heads, int) else {"num_head_channels": width // heads[0]}
    decoder = {
        "double_z": True, "z_channels": vae["latent_channels"], "resolution": 256, "in_channels": 3, "out_ch": 3,
        "ch": vae["block_out_channels"][0], "ch_mult": _multiples(vae["block_out_channels"]),
        "num_res_blocks": vae["layers_per_block"], "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    text = (
        {
            "target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
            "params": {"freeze": True, "layer": "penultimate"},
        }
        if layout.architecture == "sd-2"
        else {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"}
    )
    params = {
        "parameterization": "v" if layout.prediction == "v_prediction" else "eps",
        "linear_start": layout.scheduler["beta_start"],
        "linear_end": layout.scheduler["beta_end"],
        "timesteps": layout.scheduler.get("num_train_timesteps", 1000),
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": unet["sample_size"],
        "channels": unet["in_channels"],
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "scale_factor": vae.get("scaling_factor", 0.18215),
        "use_ema": False,
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": {
                "in_channels": unet["in_channels"], "out_channels": unet["out_channels"], "model_channels": width,
                "num_res_blocks": unet["layers_per_block"], "channel_mult": _multiples(unet["block_out_channels"]),
                **attention,
            },
        },
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {
                "embed_dim": vae["latent_channels"], "ddconfig": decoder, "lossconfig": {"target": "torch.nn.Identity"},
            },
        },
        "cond_stage_config": text,
    }  # fmt: skip
    return (
        json.dumps({"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}, indent=2)
        + "\n"
    )


def _multiples(channels: Sequence[int]) -> list[int]:
    return [count // channels[0] for count in channels]
