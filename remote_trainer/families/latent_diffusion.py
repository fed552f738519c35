"""What families share that are a folder of components with a KL autoencoder."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingFailed
from ..quantized import quantize_blocks
from ..wire import Weights
from .api import Autoencoder

_BYTES_PER_PARAMETER = 4


class DiffusersFolder(ABC):
    """The part of `Family` that is done alike for every base: a family says which classes its components are."""

    folder: Path
    denoiser_folder: str

    @abstractmethod
    def denoiser_class(self) -> Any:
        """Of diffusers; imported when asked for, as all of diffusers is."""

    @abstractmethod
    def pipeline_class(self) -> Any:
        """As in `Family`."""

    def denoiser_parameters(self) -> int:
        return parameters_about(self.folder / self.denoiser_folder)

    def load_denoiser(self, device: torch.device, weights: Weights = "fp32") -> nn.Module:
        return load_denoiser(self.denoiser_class(), self.folder / self.denoiser_folder, device, weights)

    def load_autoencoder(self, device: torch.device) -> Autoencoder:
        return load_kl_autoencoder(self.folder / "vae", device)

    def load_pipeline(self, folder: Path) -> Any:
        return self.pipeline_class().from_pretrained(folder, torch_dtype=torch.float32)


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


def parameters_about(folder: Path) -> int:
    """Of the component in `folder`: those of its largest file, or of its parts where it comes in parts. As the headers
    of `.safetensors` state them; of other files, and of one that cannot be read, by their size in float32.
    """
    files = list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))
    parts = [path for path in files if "-of-" in path.name and "." not in path.stem]
    return sum(map(_parameters_of, parts)) if parts else max(map(_parameters_of, files), default=0)


def _parameters_of(file: Path) -> int:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118  # it is no mapping
    except (OSError, SafetensorError):
        return file.stat().st_size // _BYTES_PER_PARAMETER


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
