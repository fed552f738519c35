"""Flux.1 (Black Forest Labs 2024): a transformer on a flow over 2×2 patches of latents, told T5's tokens and CLIP's
vector, and, where it was distilled from guided answers, how strongly to answer as if guided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..wire import ADAPTERS_AND_KOHYA, ExportFormat, Method
from .api import Autoencoder, Guidance, TextEmbedding, TextEncoder
from .flow_matching import (
    FlowTransformer,
    TokenWindow,
    as_picture,
    as_sequence,
    clip_window,
    load_text_model,
    noise_schedule,
    patches_of,
    positions,
    require_channels,
    t5_window,
    without_patches,
)
from .latent_diffusion import component_config, load_kl_autoencoder

_T5_TOKENS = 512
"""As in the pipeline."""


class Flux1(FlowTransformer):
    """Implements `Family`. Reads configurations only; weights are loaded when asked for.

    Latents are patches throughout: (B, 64, H/16, W/16). Raises TrainingFailed("base-not-found") when a configuration
    is missing or broken, and "bad-job" for another process or other channels (inpainting, depth, edges).
    """

    name = "flux-1"
    lora_targets: tuple[str, ...] = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
        "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
    )  # fmt: skip
    unused_by_adapters = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    formats: Mapping[Method, tuple[ExportFormat, ...]] = ADAPTERS_AND_KOHYA

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        vae, transformer = component_config(folder / "vae"), component_config(folder / "transformer")
        self.latent_channels = 4 * int(vae["latent_channels"])
        require_channels(transformer, self.latent_channels)
        self.pixels_per_latent = self.pixel_multiple = 2 ** len(vae["block_out_channels"])
        self.guidance: Guidance = "told" if transformer.get("guidance_embeds") else "none"
        self.schedule = noise_schedule(folder / "scheduler")

    def denoiser_class(self) -> Any:
        from diffusers import FluxTransformer2DModel

        return FluxTransformer2DModel

    def load_autoencoder(self, device: torch.device) -> Autoencoder:
        return _PatchAutoencoder(load_kl_autoencoder(self.folder / "vae", device))

    def load_text_encoder(self, device: torch.device) -> TextEncoder:
        from transformers import CLIPTextModel, T5EncoderModel

        return _ClipAndT5(
            clip_window(self.folder / "tokenizer"),
            load_text_model(CLIPTextModel, self.folder / "text_encoder", device),
            t5_window(self.folder / "tokenizer_2", _T5_TOKENS),
            load_text_model(T5EncoderModel, self.folder / "text_encoder_2", device),
            device,
        )

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
        told = torch.full((len(noisy),), guidance, device=noisy.device) if self.guidance == "told" else None
        predicted = denoiser(
            hidden_states=as_sequence(noisy), timestep=timesteps / len(self.schedule), guidance=told,
            pooled_projections=pooled, encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, device=noisy.device),
            img_ids=positions(3, noisy), return_dict=False,
        )[0]  # fmt: skip
        return as_picture(predicted, noisy)

    def sampling_scheduler(self, inference_steps: int, rows: int, columns: int) -> Any:
        import numpy as np
        from diffusers import FlowMatchEulerDiscreteScheduler
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        scheduler: Any = FlowMatchEulerDiscreteScheduler.from_pretrained(self.folder / "scheduler")
        config = scheduler.config
        mu = calculate_shift(
            rows * columns, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / inference_steps, inference_steps), mu=mu)
        return scheduler

    def pipeline_class(self) -> Any:
        from diffusers import FluxPipeline

        return FluxPipeline


class _PatchAutoencoder:
    """Implements `Autoencoder` in patches."""

    def __init__(self, plain: Autoencoder) -> None:
        self._plain = plain

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self._plain.encode(pixels)
        return patches_of(mean), patches_of(std)

    def decode(self, latents: Tensor) -> Tensor:
        return self._plain.decode(without_patches(latents))


class _ClipAndT5:
    """T5's tokens, and CLIP's vector of the whole prompt."""

    def __init__(
        self, clip_window: TokenWindow, clip: Any, t5_window: TokenWindow, t5: Any, device: torch.device
    ) -> None:
        self._clip_window, self._clip, self._t5_window, self._t5 = clip_window, clip, t5_window, t5
        self._device = device
        self.models: Mapping[str, nn.Module] = {}

    def cut_off(self, prompt: str) -> int:
        """What T5 does not see: its window is the longer one."""
        return self._t5_window.cut_off(prompt)

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        pooled = self._clip(self._clip_window.ids(prompts, self._device)).pooler_output
        tokens = self._t5(self._t5_window.ids(prompts, self._device))[0]
        return TextEmbedding(tokens.float(), pooled.float())
