"""Stable Diffusion 1.x and 2.x: a UNet on 4-channel latents, one CLIP text encoder, ε or v prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingFailed
from ..wire import EVERY_FORMAT, ExportFormat, Method, Weights
from .api import Autoencoder, Guidance, SingleFileLayout, TextEmbedding, TextEncoder, TextPart
from .latent_diffusion import (
    component_config,
    load_component,
    load_denoiser,
    load_kl_autoencoder,
    noise_schedule,
    parameters_about,
    read_json,
    sampling_scheduler,
)


class StableDiffusion:
    """Implements `Family`. Reads configurations only; weights are loaded when asked for.

    Raises TrainingFailed("base-not-found") when a configuration is missing or broken, and "bad-job" for a
    prediction type or a channel count (inpainting, depth) that this recipe does not train.
    """

    name = "stable-diffusion"
    denoiser_folder = "unet"
    guidance: Guidance = "classifier-free"
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    trainable_texts: tuple[str, ...] = ("text_encoder",)
    formats: Mapping[Method, tuple[ExportFormat, ...]] = EVERY_FORMAT

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        vae, unet = component_config(folder / "vae"), component_config(folder / "unet")
        self.latent_channels = int(vae.get("latent_channels", 4))
        self.pixels_per_latent = self.pixel_multiple = 2 ** (len(vae["block_out_channels"]) - 1)
        if unet["in_channels"] != self.latent_channels:
            message = f"the base's UNet takes {unet['in_channels']} channels, its latents have {self.latent_channels}"
            raise TrainingFailed("bad-job", message, "use a text-to-image base, not one for inpainting or depth")
        self.schedule = noise_schedule(folder / "scheduler")

    def denoiser_parameters(self) -> int:
        return parameters_about(self.folder / "unet")

    def load_denoiser(self, device: torch.device, weights: Weights = "fp32") -> nn.Module:
        from diffusers import UNet2DConditionModel

        return load_denoiser(UNet2DConditionModel, self.folder / "unet", device, weights)

    def load_autoencoder(self, device: torch.device) -> Autoencoder:
        return load_kl_autoencoder(self.folder / "vae", device)

    def load_text_encoder(self, device: torch.device) -> TextEncoder:
        from transformers import CLIPTextModel, CLIPTokenizer

        tokenizer = load_component(CLIPTokenizer, self.folder / "tokenizer")
        encoder = load_component(CLIPTextModel, self.folder / "text_encoder", dtype=torch.float32)
        return _ClipTextEncoder(tokenizer, encoder.to(device).requires_grad_(False).eval(), device)

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
        predicted: Tensor = denoiser(noisy, timesteps, encoder_hidden_states=text, return_dict=False)[0]
        return predicted

    def sampling_scheduler(self, inference_steps: int, rows: int, columns: int) -> Any:
        scheduler = sampling_scheduler(self.folder / "scheduler")
        scheduler.set_timesteps(inference_steps)
        return scheduler

    def pipeline_class(self) -> Any:
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline

    @property
    def single_file(self) -> SingleFileLayout:
        # OpenAI's models use the quick approximation of GELU, OpenCLIP's the exact one.
        exact = component_config(self.folder / "text_encoder").get("hidden_act") == "gelu"
        return SingleFileLayout(
            architecture="sd-2" if exact else "sd-1",
            texts=(TextPart("text_encoder", "open-clip" if exact else "clip", "cond_stage_model."),),
            prediction=self.schedule.prediction,
            unet=component_config(self.folder / "unet"),
            autoencoder=component_config(self.folder / "vae"),
            scheduler=read_json(self.folder / "scheduler" / "scheduler_config.json"),
        )

    def frozen_tensors(self, component: str) -> Mapping[str, Tensor]:
        from diffusers import AutoencoderKL
        from transformers import CLIPTextModel

        if component == "vae":
            vae: Any = load_component(AutoencoderKL, self.folder / "vae", torch_dtype=torch.float32)
            return dict(vae.state_dict())
        encoder: Any = load_component(CLIPTextModel, self.folder / component, dtype=torch.float32)
        return dict(encoder.state_dict())

    def load_pipeline(self, folder: Path) -> Any:
        return self.pipeline_class().from_pretrained(folder, torch_dtype=torch.float32)

    def load_denoiser_pipeline(self, *, with_texts: bool = False) -> Any:
        texts = () if with_texts else ("text_encoder", "tokenizer")
        absent = dict.fromkeys(("vae", *texts, "safety_checker", "feature_extractor"))
        return self.pipeline_class().from_pretrained(self.folder, torch_dtype=torch.float32, **absent)


class _ClipTextEncoder:
    def __init__(self, tokenizer: Any, encoder: Any, device: torch.device) -> None:
        self._tokenizer, self._encoder, self._device = tokenizer, encoder, device
        self.models: Mapping[str, nn.Module] = {"text_encoder": encoder}
        self._window = int(min(tokenizer.model_max_length, encoder.config.max_position_embeddings))

    def cut_off(self, prompt: str) -> int:
        return max(0, len(self._tokenizer(prompt, truncation=False).input_ids) - self._window)

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        tokens = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self._window, return_tensors="pt"
        )
        # SD 1.x's pipelines pass no attention mask; some SD 2.x text encoders are configured to expect one.
        masked = getattr(self._encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(self._device) if masked else None
        embeddings: Tensor = self._encoder(tokens.input_ids.to(self._device), attention_mask=mask)[0]
        return TextEmbedding(embeddings.float())
