"""One file with the whole model, as AUTOMATIC1111 and ComfyUI open it: `.safetensors` or `.ckpt`, and its `.yaml`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..families.api import SingleFileFamily, SingleFileLayout
from . import ldm_names
from .digests import Digest, digests, require_equal


def tensors_of(
    family: SingleFileFamily, denoiser: nn.Module, trained_texts: Mapping[str, nn.Module] | None = None
) -> dict[str, Tensor]:
    """Every tensor of the model under its name in a single file, float32, on the CPU.

    denoiser, trained_texts (by component): plain, without adapter. Holds the autoencoder and the text
    encoders in memory.
    """
    unet = {name: tensor.detach().cpu() for name, tensor in denoiser.state_dict().items()}
    layout = family.single_file
    texts = [
        {name: tensor.detach().cpu() for name, tensor in trained_texts[part.component].state_dict().items()}
        if trained_texts and part.component in trained_texts
        else family.frozen_tensors(part.component)
        for part in layout.texts
    ]
    return _named(layout, unet, family.frozen_tensors("vae"), texts)


def write(tensors: Mapping[str, Tensor], path: Path, step: int) -> None:
    """`.ckpt` holds what the original trainers pickled; `.safetensors` holds tensors only. By `path`'s suffix."""
    if path.suffix == ".ckpt":
        torch.save({"state_dict": dict(tensors), "global_step": step}, path)
    else:
        save_file(dict(tensors), path, metadata={"format": "pt"})


def write_config(family: SingleFileFamily, path: Path) -> None:
    """The `.yaml` that AUTOMATIC1111 wants beside a file whose keys do not tell what the model predicts."""
    path.write_text(config_text(family.single_file))


def verify(family: SingleFileFamily, written: Mapping[str, Digest], path: Path) -> None:
    """Compares the file tensor by tensor, then loads it with `from_single_file` and compares every component with
    what stands in the file. Raises TrainingFailed("export-mismatch").
    """
    read = torch.load(path, weights_only=True)["state_dict"] if path.suffix == ".ckpt" else load_file(path)
    require_equal(f"the single file {path.name}", written, digests(read))
    del read
    pipeline = family.pipeline_class().from_single_file(
        str(path), config=str(family.folder), torch_dtype=torch.float32, local_files_only=True
    )
    layout = family.single_file
    texts = [pipeline.components[part.component].state_dict() for part in layout.texts]
    opened = _named(layout, pipeline.unet.state_dict(), pipeline.vae.state_dict(), texts)
    require_equal(f"{path.name} in diffusers", written, digests(opened))


def _named(
    layout: SingleFileLayout,
    unet: Mapping[str, Tensor],
    vae: Mapping[str, Tensor],
    texts: Sequence[Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """texts: in the order of `layout.texts`."""
    tensors = {
        **ldm_names.unet_tensors(unet, layout.unet["layers_per_block"]),
        **ldm_names.autoencoder_tensors(vae),
        **_markers(layout),
    }
    for part, text in zip(layout.texts, texts, strict=True):
        tensors |= ldm_names.text_tensors(text, part.layout, part.prefix)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _markers(layout: SingleFileLayout) -> dict[str, Tensor]:
    """Empty tensors by whose names ComfyUI knows an SDXL that predicts v; no `.yaml` says it for this architecture."""
    if layout.architecture != "sdxl" or layout.prediction != "v_prediction":
        return {}
    names = ["v_pred"] + ["ztsnr"] * bool(layout.scheduler.get("rescale_betas_zero_snr"))
    return {name: torch.empty(0) for name in names}


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
        "transformer_depth": 1,
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
