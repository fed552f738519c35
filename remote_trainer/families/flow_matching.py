"""What families share that are transformers on a flow: the process, its sampling, and text encoders of many kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import TrainingFailed
from ..objective import NoiseSchedule, flow_schedule
from .latent_diffusion import DiffusersFolder, load_component, read_json


class FlowTransformer(DiffusersFolder):
    """What Stable Diffusion 3 and Flux share: a transformer of billions of parameters, to which adapters alone are
    trained. Raises TrainingFailed as `noise_schedule` and `require_channels` do, and "base-not-found" when a
    configuration is missing or broken.
    """

    denoiser_folder = "transformer"
    longest_side: int | None = None
    trainable_texts: tuple[str, ...] = ()
    unused_by_adapters: tuple[str, ...]
    """Components of the base's pipeline that an adapter has nothing to do with."""

    def load_denoiser_pipeline(self, *, with_texts: bool = False) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return self.pipeline_class()(
            transformer=with_unread_weights(self.denoiser_class(), self.folder / "transformer"),
            scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(self.folder / "scheduler"),
            **dict.fromkeys(self.unused_by_adapters),
        )


def noise_schedule(folder: Path) -> NoiseSchedule:
    """folder: the base's `scheduler`. A fixed shift is trained with; one that depends on the picture's size is for
    sampling alone, as in diffusers' scripts. Raises TrainingFailed("bad-job") for a process that is no flow.
    """
    config = read_json(folder / "scheduler_config.json")
    if not str(config.get("_class_name", "")).startswith("FlowMatch"):
        message = f"the base's scheduler is {config.get('_class_name')!r}, not one that matches a flow"
        raise TrainingFailed("bad-job", message, "use the base as it was published")
    shift = 1.0 if config.get("use_dynamic_shifting") else float(config.get("shift", 1.0))
    return flow_schedule(int(config.get("num_train_timesteps", 1000)), shift)


def require_channels(transformer: Mapping[str, Any], expected: int) -> None:
    """transformer: its configuration. Raises TrainingFailed("bad-job") for one that takes more than noisy latents."""
    if transformer["in_channels"] != expected:
        message = f"the base's transformer takes {transformer['in_channels']} channels, its latents have {expected}"
        raise TrainingFailed("bad-job", message, "use a text-to-image base, not one for inpainting or editing")


def text_precision(device: torch.device) -> torch.dtype:
    """Text encoders of billions of parameters are published, and run by everybody, in half precision."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def with_unread_weights(cls: Any, folder: Path) -> Any:
    """The model of a configuration on the CPU, float32, its weights not read from disk: memory that nobody touches is
    not taken, so a LoRA can be loaded onto it where the base itself would not fit.
    """
    with torch.device("meta"):
        model = cls.from_config(cls.load_config(folder))
    return model.to_empty(device="cpu").float()


def patches_of(latents: Tensor) -> Tensor:
    """(B, C, 2h, 2w) → (B, 4C, h, w): each 2×2 patch as channels, ordered by channel, row, column."""
    return torch.nn.functional.pixel_unshuffle(latents, 2)


def without_patches(patches: Tensor) -> Tensor:
    """The inverse of `patches_of`."""
    return torch.nn.functional.pixel_shuffle(patches, 2)


def as_sequence(latents: Tensor) -> Tensor:
    """(B, C, h, w) → (B, h·w, C), row by row."""
    return latents.flatten(2).transpose(1, 2)


def as_picture(sequence: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_sequence`; like: (B, C, h, w)."""
    return sequence.transpose(1, 2).reshape(like.shape)


def positions(axes: int, latents: Tensor) -> Tensor:
    """(h·w, axes): where each of latents (B, C, h, w) stands: row in axis 1, column in axis 2, 0 in all others."""
    rows, columns = latents.shape[2:]
    places = torch.zeros(rows, columns, axes, device=latents.device)
    places[..., 1] = torch.arange(rows, device=latents.device)[:, None]
    places[..., 2] = torch.arange(columns, device=latents.device)
    return places.reshape(rows * columns, axes)


@dataclass(frozen=True)
class TokenWindow:
    """A tokenizer and how many of its tokens its encoder is given."""

    tokenizer: Any
    length: int

    def ids(self, prompts: Sequence[str], device: torch.device) -> Tensor:
        """(B, length), padded, cut off at the end."""
        encoded = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        ids: Tensor = encoded.input_ids
        return ids.to(device)

    def cut_off(self, prompt: str) -> int:
        return max(0, len(self.tokenizer(prompt, truncation=False).input_ids) - self.length)


def clip_window(folder: Path) -> TokenWindow:
    from transformers import CLIPTokenizer

    tokenizer = load_component(CLIPTokenizer, folder)
    return TokenWindow(tokenizer, int(tokenizer.model_max_length))


def t5_window(folder: Path, length: int) -> TokenWindow:
    from transformers import T5TokenizerFast

    return TokenWindow(load_component(T5TokenizerFast, folder), length)


def load_text_model(cls: Any, folder: Path, device: torch.device) -> Any:
    """cls: of transformers. Frozen, in evaluation mode."""
    model = load_component(cls, folder, dtype=text_precision(device))
    return model.to(device).requires_grad_(False).eval()
