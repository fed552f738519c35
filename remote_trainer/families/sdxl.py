"""Stable Diffusion XL (arXiv 2307.01952): a UNet that is told two text encoders' words, a pooled one, and six sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingFailed
from .api import SingleFileLayout, TextEmbedding, TextEncoder, TextPart
from .latent_diffusion import load_component, read_json
from .unet_diffusion import UNetDiffusion


class StableDiffusionXL(UNetDiffusion):
    """Implements `Family`. Reads configurations only; weights are loaded when asked for.

    The sizes (`Framing`) follow diffusers' training scripts: the photo's size before resizing, the crop's top left
    corner, the bucket; pictures that are made are told their own size and no crop, as in the pipeline. An empty prompt
    embeds as zeros where the base says so (`force_zeros_for_empty_prompt`): that is how it learned to draw unguided.

    Raises as `UNetDiffusion` does, and TrainingFailed("bad-job") for bases of other conditions or latents.
    """

    name = "stable-diffusion-xl"
    trainable_texts: tuple[str, ...] = ("text_encoder", "text_encoder_2")
    unused_by_pipeline = ("image_encoder", "feature_extractor")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        if self.unet.get("addition_embed_type") != "text_time":
            message = (
                f"the base's UNet is conditioned on {self.unet.get('addition_embed_type')!r}, not on text and sizes"
            )
            raise TrainingFailed("bad-job", message, "use a base with the architecture of SDXL's first stage")
        if self.vae.get("latents_mean") is not None:
            message = (
                "the base normalizes its latents by a mean for each channel, which comes with another noise process"
            )
            raise TrainingFailed("bad-job", message, "use a base with the autoencoder of SDXL 1.0")

    def text_classes(self) -> Mapping[str, Any]:
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        return {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}

    def load_text_encoder(self, device: torch.device) -> TextEncoder:
        from transformers import CLIPTokenizer

        zeros = bool(read_json(self.folder / "model_index.json").get("force_zeros_for_empty_prompt", True))
        tokenizers = [load_component(CLIPTokenizer, self.folder / name) for name in ("tokenizer", "tokenizer_2")]
        encoders = [self.load_text(name).to(device).requires_grad_(False).eval() for name in self.text_classes()]
        return _ClipPair(tokenizers, encoders, device, zeros_for_empty=zeros)

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
        added = {"text_embeds": pooled, "time_ids": framing}
        predicted: Tensor = denoiser(
            noisy, timesteps, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False
        )[0]
        return predicted

    def pipeline_class(self) -> Any:
        from diffusers import StableDiffusionXLPipeline

        return StableDiffusionXLPipeline

    @property
    def single_file(self) -> SingleFileLayout:
        return SingleFileLayout(
            architecture="sdxl",
            texts=(
                TextPart("text_encoder", "clip", "conditioner.embedders.0."),
                TextPart("text_encoder_2", "open-clip", "conditioner.embedders.1."),
            ),
            prediction=self.schedule.prediction,
            unet=self.unet,
            autoencoder=self.vae,
            scheduler=self.scheduler_config(),
        )


class _ClipPair:
    """Both encoders' last layer but one, side by side, and the second one's pooled and projected last."""

    def __init__(
        self, tokenizers: Sequence[Any], encoders: Sequence[Any], device: torch.device, *, zeros_for_empty: bool
    ) -> None:
        self._tokenizers, self._encoders, self._device = tokenizers, encoders, device
        self._zeros_for_empty = zeros_for_empty
        self.models: Mapping[str, nn.Module] = dict(zip(("text_encoder", "text_encoder_2"), encoders, strict=True))
        # One window for both: their tokens stand side by side.
        self._window = min(
            *(int(tokenizer.model_max_length) for tokenizer in tokenizers),
            *(int(encoder.config.max_position_embeddings) for encoder in encoders),
        )

    def cut_off(self, prompt: str) -> int:
        lengths = [len(tokenizer(prompt, truncation=False).input_ids) for tokenizer in self._tokenizers]
        return max(0, max(lengths) - self._window)

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        tokens, pooled = [], None
        for tokenizer, encoder in zip(self._tokenizers, self._encoders, strict=True):
            ids = tokenizer(
                list(prompts), padding="max_length", truncation=True, max_length=self._window, return_tensors="pt"
            ).input_ids
            answer = encoder(ids.to(self._device), output_hidden_states=True)
            tokens.append(answer.hidden_states[-2].float())
            pooled = answer[0].float()  # of the last encoder alone; the first one's is no vector
        assert pooled is not None
        joined = torch.cat(tokens, dim=-1)
        if self._zeros_for_empty:
            empty = torch.tensor([prompt == "" for prompt in prompts], device=self._device)
            joined, pooled = joined.masked_fill(empty[:, None, None], 0.0), pooled.masked_fill(empty[:, None], 0.0)
        return TextEmbedding(joined, pooled)
