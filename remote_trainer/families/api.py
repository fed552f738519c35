"""What the recipe needs from a model family, and nothing else. The only place where libraries' types are `Any`.

One file for each family implements it; `families.detect` picks by the base's `model_index.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..objective import NoiseSchedule, Prediction
from ..wire import ExportFormat, Method, Weights

Guidance = Literal["classifier-free", "told", "none"]
"""How a picture is drawn closer to its prompt: by a second pass without one (Ho & Salimans 2022, arXiv 2207.12598),
by a number that the denoiser is told since it learned to answer as if guided, or not at all."""

Architecture = Literal["sd-1", "sd-2", "sdxl"]
"""What programs that open files call the base: names of tensors and metadata go by it."""
TextLayout = Literal["clip", "open-clip"]
"""How a single file spells a text encoder: as OpenAI's CLIP (SD 1.x) or as OpenCLIP (SD 2.x); SDXL has one of each."""


@dataclass(frozen=True)
class TextPart:
    """A text encoder's place in a single file."""

    component: str
    """Its name in `model_index.json`."""
    layout: TextLayout
    prefix: str


@dataclass(frozen=True)
class TextEmbedding:
    """What a prompt becomes: B rows on one device."""

    tokens: Tensor
    """(B, tokens, width), float32: what the denoiser attends to."""
    pooled: Tensor | None = None
    """(B, pooled width), float32: the prompt as one vector; None where the family has none."""

    @classmethod
    def cat(cls, parts: Sequence[TextEmbedding]) -> TextEmbedding:
        """All rows of all parts, which must be of one family."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return cls(torch.cat([part.tokens for part in parts]), torch.cat(pooled) if pooled else None)

    def row(self, index: int) -> TextEmbedding:
        """That one alone."""
        place = slice(index, index + 1)
        return TextEmbedding(self.tokens[place], None if self.pooled is None else self.pooled[place])

    def expand(self, rows: int) -> TextEmbedding:
        """One row as many, without a copy."""
        pooled = None if self.pooled is None else self.pooled.expand(rows, -1)
        return TextEmbedding(self.tokens.expand(rows, -1, -1), pooled)


@dataclass(frozen=True)
class SingleFileLayout:
    """What of the base decides the names in a single file and the configuration beside it: parts of its own JSON."""

    architecture: Architecture
    texts: tuple[TextPart, ...]
    prediction: Prediction
    unet: Mapping[str, Any]
    autoencoder: Mapping[str, Any]
    scheduler: Mapping[str, Any]

    @property
    def needs_config(self) -> bool:
        """The names of the tensors tell the architecture, and in SD 1.x and 2.x nothing tells ε from v. Without it
        stays a base whose levels are no whole multiples of the first: the original code cannot build that one."""
        told = self.architecture == "sdxl" or (self.architecture == "sd-1" and self.prediction != "v_prediction")
        return not told and all(
            channels % model["block_out_channels"][0] == 0
            for model in (self.unet, self.autoencoder)
            for channels in model["block_out_channels"]
        )


class Autoencoder(Protocol):
    """Between pixels (B, 3, H, W) in [-1, 1] and latents (B, C, H/f, W/f) in the denoiser's scale."""

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, std) of the latents; sampling is left to the caller, so that one encoding serves all epochs."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels, float32, clamped to [-1, 1]."""
        ...


class TextEncoder(Protocol):
    models: Mapping[str, nn.Module]
    """What of it can be trained, by its component in `model_index.json`; empty where nothing can."""

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """A row for each prompt, with gradient where `models` train. One longer than the model's window is cut off."""
        ...

    def cut_off(self, prompt: str) -> int:
        """How many of the prompt's tokens `encode` leaves out at its end; 0 for a prompt that fits."""
        ...


class Family(Protocol):
    """A base model in a local diffusers folder. Every `load_…` reads from disk anew and keeps no reference."""

    name: str
    folder: Path
    schedule: NoiseSchedule
    """On the CPU."""
    latent_channels: int
    pixels_per_latent: int
    """f: the side of a latent in pixels."""
    pixel_multiple: int
    """What the sides of buckets must be multiples of; of f itself, and of more where latents are taken in patches."""
    longest_side: int | None
    """Of a picture, in pixels: the denoiser knows no places beyond; None where it knows them all."""
    guidance: Guidance
    denoiser_folder: str
    """Name of the denoiser's component in `model_index.json`."""
    lora_targets: tuple[str, ...]
    """Ends of the names of the linear layers a LoRA adapts by itself."""
    trainable_texts: tuple[str, ...]
    """Components of text encoders that can be trained."""
    formats: Mapping[Method, tuple[ExportFormat, ...]]
    """The methods it is trained by, and what each can be exported to."""

    def denoiser_parameters(self) -> int:
        """About how many, from the files: decides things before anything is loaded."""
        ...

    def load_denoiser(self, device: torch.device, weights: Weights = "fp32") -> nn.Module:
        """Frozen, in evaluation mode."""
        ...

    def load_autoencoder(self, device: torch.device) -> Autoencoder: ...

    def load_text_encoder(self, device: torch.device) -> TextEncoder: ...

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        timesteps: Tensor,
        text: Tensor,
        pooled: Tensor | None = None,
        framing: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """noisy: (B, C, h, w); timesteps: (B,), of `NoiseSchedule.told`; text and pooled: as in `TextEmbedding`;
        framing: (B, 6), rows of `Framing.values`; guidance: what a base with guidance "told" is told. Families ignore
        what they were trained without. Returns (B, C, h, w).
        """
        ...

    def sampling_scheduler(self, inference_steps: int, rows: int, columns: int) -> Any:
        """The diffusers scheduler that the base's own pipeline samples with, its timesteps set as that one sets them;
        DDIM where it cannot be imported. rows, columns: h and w of the latents.
        """
        ...

    def pipeline_class(self) -> Any:
        """The diffusers class that `model_index.json` names."""
        ...

    def load_pipeline(self, folder: Path) -> Any:
        """The diffusers pipeline in `folder`, float32, on the CPU."""
        ...

    def load_denoiser_pipeline(self, *, with_texts: bool = False) -> Any:
        """The base's pipeline without anything but its denoiser and scheduler, and text encoders that can be trained
        where asked for, to load a LoRA onto. What the denoiser's own weights are is left open; their shapes are the
        base's.
        """
        ...


@runtime_checkable
class SingleFileFamily(Family, Protocol):
    """One whose models have a place in a single file: every family with one of the formats that ask for names there."""

    @property
    def single_file(self) -> SingleFileLayout: ...

    def frozen_tensors(self, component: str) -> Mapping[str, Tensor]:
        """The base's own tensors of a component that is not trained: "vae", or a `TextPart`'s; float32, on the CPU."""
        ...
