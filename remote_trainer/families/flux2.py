"""Flux.2 klein (Black Forest Labs 2026): a transformer on a flow over normalized 2×2 patches of latents, told what
three layers in the middle of a Qwen3 make of the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..wire import ADAPTERS_ALONE, ExportFormat, Method
from .api import Autoencoder, Guidance, TextEmbedding, TextEncoder
from .flow_matching import (
    FlowTransformer,
    as_picture,
    as_sequence,
    load_text_model,
    noise_schedule,
    patches_of,
    positions,
    require_channels,
    without_patches,
)
from .latent_diffusion import component_config, load_component, read_json

_TOKENS, _LAYERS = 512, (9, 18, 27)
"""As in the pipeline."""


class Flux2Klein(FlowTransformer):
    """Implements `Family`. Reads configurations only; weights are loaded when asked for.

    Latents are patches throughout: (B, 128, H/16, W/16). Raises TrainingFailed("base-not-found") when a configuration
    is missing or broken, and "bad-job" for another process or other channels.
    """

    name = "flux-2-klein"
    unused_by_adapters = ("vae", "text_encoder", "tokenizer")
    formats: Mapping[Method, tuple[ExportFormat, ...]] = ADAPTERS_ALONE

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        vae, transformer = component_config(folder / "vae"), component_config(folder / "transformer")
        self.latent_channels = 4 * int(vae["latent_channels"])
        require_channels(transformer, self.latent_channels)
        self.pixels_per_latent = self.pixel_multiple = 2 ** len(vae["block_out_channels"])
        # The base distilled to few steps ignores guidance; the one meant for training is guided by a second pass.
        distilled = bool(read_json(folder / "model_index.json").get("is_distilled", False))
        self.guidance: Guidance = "none" if distilled else "classifier-free"
        self.schedule = noise_schedule(folder / "scheduler")
        # `to_out` is a layer in the blocks of one stream, and a list with one layer in those of two.
        singles = (f"single_transformer_blocks.{n}.attn.to_out" for n in range(int(transformer["num_single_layers"])))
        self.lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj", *singles)

    def denoiser_class(self) -> Any:
        from diffusers import Flux2Transformer2DModel

        return Flux2Transformer2DModel

    def load_autoencoder(self, device: torch.device) -> Autoencoder:
        from diffusers import AutoencoderKLFlux2

        vae = load_component(AutoencoderKLFlux2, self.folder / "vae", torch_dtype=torch.float32)
        return _NormalizingAutoencoder(vae.to(device).requires_grad_(False).eval(), device)

    def load_text_encoder(self, device: torch.device) -> TextEncoder:
        from transformers import Qwen2TokenizerFast, Qwen3ForCausalLM

        tokenizer = load_component(Qwen2TokenizerFast, self.folder / "tokenizer")
        return _MiddleOfQwen(tokenizer, load_text_model(Qwen3ForCausalLM, self.folder / "text_encoder", device), device)

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
        words = torch.zeros(text.shape[1], 4, device=noisy.device)
        words[:, 3] = torch.arange(text.shape[1], device=noisy.device)
        predicted = denoiser(
            hidden_states=as_sequence(noisy), timestep=timesteps / len(self.schedule), guidance=None,
            encoder_hidden_states=text, txt_ids=words, img_ids=positions(4, noisy),
            return_dict=False,
        )[0]  # fmt: skip
        return as_picture(predicted, noisy)

    def sampling_scheduler(self, inference_steps: int, rows: int, columns: int) -> Any:
        import numpy as np
        from diffusers import FlowMatchEulerDiscreteScheduler
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        scheduler: Any = FlowMatchEulerDiscreteScheduler.from_pretrained(self.folder / "scheduler")
        mu = compute_empirical_mu(rows * columns, inference_steps)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / inference_steps, inference_steps), mu=mu)
        return scheduler

    def pipeline_class(self) -> Any:
        from diffusers import Flux2KleinPipeline

        return Flux2KleinPipeline


class _NormalizingAutoencoder:
    """Implements `Autoencoder`: the likeliest latents as patches, each channel normalized by what the base has seen."""

    def __init__(self, vae: Any, device: torch.device) -> None:
        self._vae, self._device = vae, device
        self._mean = vae.bn.running_mean.view(1, -1, 1, 1)
        self._std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The base learned from the likeliest latents alone, so the deviation is 0."""
        likeliest = patches_of(self._vae.encode(pixels.to(self._device)).latent_dist.mode())
        mean = (likeliest - self._mean) / self._std
        return mean, torch.zeros_like(mean)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        plain = without_patches(latents.float() * self._std + self._mean)
        pixels: Tensor = self._vae.decode(plain, return_dict=False)[0]
        return pixels.float().clamp(-1.0, 1.0)


class _MiddleOfQwen:
    """What Qwen3's layers make of a question that consists of the prompt, side by side."""

    def __init__(self, tokenizer: Any, encoder: Any, device: torch.device) -> None:
        self._tokenizer, self._encoder, self._device = tokenizer, encoder, device
        self.models: Mapping[str, nn.Module] = {}

    def cut_off(self, prompt: str) -> int:
        return max(0, len(self._tokenizer(self._question(prompt)).input_ids) - _TOKENS)

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        asked = self._tokenizer(
            [self._question(prompt) for prompt in prompts], padding="max_length", truncation=True, max_length=_TOKENS,
            return_tensors="pt",
        ).to(self._device)  # fmt: skip
        # Without its head, which would spell out probabilities of 150,000 tokens that nobody reads.
        states = self._encoder.model(
            input_ids=asked.input_ids, attention_mask=asked.attention_mask, output_hidden_states=True, use_cache=False
        ).hidden_states
        return TextEmbedding(torch.cat([states[layer] for layer in _LAYERS], dim=-1).float())

    def _question(self, prompt: str) -> str:
        text: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return text
