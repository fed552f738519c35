"""What families share that are a folder of components with a KL autoencoder; and a process of ε or v prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingFailed
from ..objective import NoiseSchedule, diffusion_schedule
from ..quantized import quantize_blocks
from ..wire import Weights
from .api import Autoencoder

_BYTES_PER_PARAMETER = 4


class KlAutoencoder:
    """Implements `Autoencoder` with diffusers' AutoencoderKL, always in float32: SDXL's overflows in half precision."""

    def __init__(self, vae: Any, device: torch.device) -> None:
        self._vae, self._device = vae, device
        self._scale = float(vae.config.scaling_factor)
        self._shift = float(vae.config.shift_factor or 0.0)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self._vae.encode(pixels.to(self._device)).latent_dist
        return (posterior.mean - self._shift) * self._scale, posterior.std * self._scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self._vae.decode(latents.float() / self._scale + self._shift, return_dict=False)[0]
        return pixels.float().clamp(-1.0, 1.0)


def noise_schedule(folder: Path) -> NoiseSchedule:
    """folder: the base's `scheduler`. Raises TrainingFailed("bad-job") for a process that is neither ε nor v."""
    from diffusers import DDPMScheduler

    prediction = read_json(folder / "scheduler_config.json").get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise TrainingFailed("bad-job", f"the base predicts {prediction!r}", "use a base that predicts ε or v")
    # DDPM reads the betas of every scheduler's config; T and ᾱ do not depend on how the base samples.
    alphas_cumprod: Tensor = DDPMScheduler.from_pretrained(folder).alphas_cumprod
    return diffusion_schedule(prediction, alphas_cumprod)


def sampling_scheduler(folder: Path) -> Any:
    """The scheduler that the base's own pipeline samples with; DDIM where that one cannot be imported."""
    import diffusers

    try:
        return getattr(diffusers, read_json(folder / "scheduler_config.json")["_class_name"]).from_pretrained(folder)
    except ImportError:  # a few need scipy, which is not worth its place on a host
        return diffusers.DDIMScheduler.from_pretrained(folder)


def parameters_about(folder: Path) -> int:
    """Of the component in `folder`, from the size of its largest file, or of its parts where it comes in parts; half as
    many as there are, where they are published in half precision.
    """
    files = list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))
    parts = [path for path in files if "-of-" in path.name and "." not in path.stem]
    if parts:
        return sum(path.stat().st_size for path in parts) // _BYTES_PER_PARAMETER
    return max((path.stat().st_size for path in files), default=0) // _BYTES_PER_PARAMETER


def load_denoiser(cls: Any, folder: Path, device: torch.device, weights: Weights) -> nn.Module:
    """Frozen, in evaluation mode; cls: of diffusers. Quantized layer by layer, so that the device never holds more than
    the result and a layer. Raises as `load_component` does.
    """
    denoiser: nn.Module = load_component(
        cls, folder, torch_dtype=torch.float32 if weights == "fp32" else torch.bfloat16
    )
    if weights == "int8" or weights == "nf4":
        quantize_blocks(denoiser, weights, device)
        denoiser.float()  # what is left is small, and need not be computed with in bfloat16
    return denoiser.to(device).requires_grad_(False).eval()


def load_kl_autoencoder(folder: Path, device: torch.device) -> Autoencoder:
    from diffusers import AutoencoderKL

    vae = load_component(AutoencoderKL, folder, torch_dtype=torch.float32)
    return KlAutoencoder(vae.to(device).requires_grad_(False).eval(), device)


def load_component(cls: Any, folder: Path, **options: Any) -> Any:
    """Raises TrainingFailed("base-not-found") for what cannot be loaded, and torch's own error when memory runs out."""
    try:
        return cls.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        message = f"the base's {folder.name} cannot be loaded: {str(error).strip().splitlines()[0]}"
        hint = "check that the base is a complete diffusers folder with weights that are not only a variant"
        raise TrainingFailed("base-not-found", message, hint) from error


def component_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a component; raises as `read_json` does."""
    return read_json(folder / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """Raises TrainingFailed("base-not-found") when it is missing or broken."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TrainingFailed("base-not-found", f"the base lacks a readable {path.parent.name}/{path.name}") from error
    return content
