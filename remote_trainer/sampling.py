"""Pictures from a denoiser: the base's own scheduler, classifier-free guidance, and no second copy of any weight."""

from __future__ import annotations

import inspect
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .dataset.pictures import Framing, framing_rows
from .denoising import Denoising
from .draws import generator
from .families.api import Autoencoder, TextEmbedding
from .run_folder import write_atomically


@dataclass(frozen=True)
class SamplerSettings:
    inference_steps: int
    guidance_scale: float
    """What `Family.guidance` says it is for; up to 1, a second pass is left out."""
    side: int
    """Pixels; pictures are square."""


@torch.no_grad()
def sample_latents(
    denoising: Denoising,
    text: TextEmbedding,
    negative: TextEmbedding,
    keys: Sequence[tuple[int | str, ...]],
    settings: SamplerSettings,
    *,
    one_by_one: bool = False,
) -> Tensor:
    """Clean latents (B, C, h, w). text: B rows; negative: one.

    keys: one for each picture; its noise depends on nothing else. The bits of a picture do depend on B.
    one_by_one: the denoiser never sees more than one row, which takes the least memory.
    """
    family, device = denoising.family, text.tokens.device
    side = settings.side // family.pixel_multiple * family.pixel_multiple // family.pixels_per_latent
    scheduler = family.sampling_scheduler(settings.inference_steps, side, side)
    sources = [generator("sample", *key) for key in keys]
    noise = [torch.randn((family.latent_channels, side, side), generator=source) for source in sources]
    # A flow begins at noise itself; others may begin at a multiple of it, and take a scaled input.
    latents: Tensor = (torch.stack(noise) * getattr(scheduler, "init_noise_sigma", 1.0)).to(device)
    guided = family.guidance == "classifier-free" and settings.guidance_scale > 1.0
    condition = TextEmbedding.cat([negative.expand(len(keys)), text]) if guided else text
    framing = framing_rows([Framing.whole(settings.side, settings.side)] * len(condition.tokens), device)
    options: dict[str, Any] = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = sources
    for timestep in scheduler.timesteps:
        doubled = torch.cat([latents, latents]) if guided else latents
        noisy = scheduler.scale_model_input(doubled, timestep) if hasattr(scheduler, "scale_model_input") else doubled
        told = timestep.expand(len(noisy)).to(device)
        if one_by_one:
            rows = (
                denoising.predict(
                    noisy[k : k + 1], told[k : k + 1], condition.row(k), framing[k : k + 1], settings.guidance_scale
                )
                for k in range(len(noisy))
            )
            predicted = torch.cat(list(rows))
        else:
            predicted = denoising.predict(noisy, told, condition, framing, settings.guidance_scale)
        if guided:
            without, with_ = predicted.chunk(2)
            predicted = without + settings.guidance_scale * (with_ - without)
        latents = scheduler.step(predicted, timestep, latents, return_dict=False, **options)[0]
    return latents


def to_images(autoencoder: Autoencoder, latents: Tensor) -> list[Any]:
    """PIL images, decoded one at a time: the decoder's memory grows with the batch, its speed hardly does."""
    from PIL import Image

    images = []
    for latent in latents:
        pixels = autoencoder.decode(latent[None])[0]
        bytes_ = ((pixels + 1.0) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu()
        images.append(Image.fromarray(bytes_.numpy()))
    return images


def write_png(image: Any, path: Path) -> None:
    """The file appears whole or not at all."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())
