"""One file with the whole model, as AUTOMATIC1111 and ComfyUI open it: `.safetensors` or `.ckpt`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..families.api import SingleFileFamily, SingleFileLayout
from . import ldm_names, original_config
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


def verify(family: SingleFileFamily, written: Mapping[str, Digest], path: Path, config: Path | None = None) -> None:
    """Compares the file tensor by tensor, then loads it with `from_single_file` and compares every component with
    what stands in the file. config: the `.yaml` that goes with it, which is compared first and then, where diffusers
    understands it, tells diffusers what to build. Raises TrainingFailed("export-mismatch").
    """
    layout = family.single_file
    described = {}
    if config is not None:
        original_config.verify(layout, written, config)
        if original_config.for_diffusers(layout):
            described["original_config"] = str(config)
    read = torch.load(path, weights_only=True)["state_dict"] if path.suffix == ".ckpt" else load_file(path)
    require_equal(f"the single file {path.name}", written, digests(read))
    del read
    pipeline = family.pipeline_class().from_single_file(
        str(path), config=str(family.folder), torch_dtype=torch.float32, local_files_only=True, **described
    )
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
