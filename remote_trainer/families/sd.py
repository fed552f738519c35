"""Stable Diffusion 1.x and 2.x: a UNet on 4-channel latents, one CLIP text encoder, ε or v prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .api import SingleFileLayout, TextEmbedding, TextEncoder, TextPart
from .latent_diffusion import component_config, load_component
from .unet_diffusion import UNetDiffusion


class StableDiffusion(UNetDiffusion):
    """Implements `Family`. Reads configurations only; weights are loaded when asked for. Raises as `UNetDiffusion`."""

    name = "stable-diffusion"
    trainable_texts: tuple[str, ...] = ("text_encoder",)
    unused_by_pipeline = ("safety_checker", "feature_extractor")

    def text_classes(self) -> Mapping[str, Any]:
        from transformers import CLIPTextModel

        return {"text_encoder": CLIPTextModel}

    def load_text_encoder(self, device: torch.device) -> TextEncoder:
        from transformers import CLIPTokenizer

        tokenizer = load_component(CLIPTokenizer, self.folder / "tokenizer")
        encoder = self.load_text("text_encoder")
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
            unet=self.unet,
            autoencoder=self.vae,
            scheduler=self.scheduler_config(),
        )


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
