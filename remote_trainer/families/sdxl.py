"""Stable Diffusion XL (arXiv 2307.01952): a UNet that is told two text encoders' words, a pooled one, and six sizes."""

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


class StableDiffusionXL:
    """Implements `Family`. Reads configurations only; weights are loaded when asked for.

    The sizes (`Framing`) follow diffusers' training scripts: the photo's size before resizing, the crop's top left
    corner, the bucket; pictures that are made are told their own size and no crop, as in the pipeline. An empty prompt
    embeds as zeros where the base says so (`force_zeros_for_empty_prompt`): that is how it learned to draw unguided.

    Raises TrainingFailed("base-not-found") when a configuration is missing or broken, and "bad-job" for bases of other
    channels, conditions, latents or processes than this recipe trains.
    """

    name = "stable-diffusion-xl"
    denoiser_folder = "unet"
    guidance: Guidance = "classifier-free"
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    trainable_texts: tuple[str, ...] = ("text_encoder", "text_encoder_2")
    formats: Mapping[Method, tuple[ExportFormat, ...]] = EVERY_FORMAT

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        vae, unet = component_config(folder / "vae"), component_config(folder / "unet")
        self.latent_channels = int(vae.get("latent_channels", 4))
        self.pixels_per_latent = self.pixel_multiple = 2 ** (len(vae["block_out_channels"]) - 1)
        if unet["in_channels"] != self.latent_channels:
            message = f"the base's UNet takes {unet['in_channels']} channels, its latents have {self.latent_channels}"
            raise TrainingFailed("bad-job", message, "use a text-to-image base, not one for inpainting")
        if unet.get("addition_embed_type") != "text_time":
            message = f"the base's UNet is conditioned on {unet.get('addition_embed_type')!r}, not on text and sizes"
            raise TrainingFailed("bad-job", message, "use a base with the architecture of SDXL's first stage")
        if vae.get("latents_mean") is not None:
            message = (
                "the base normalizes its latents by a mean for each channel, which comes with another noise process"
            )
            raise TrainingFailed("bad-job", message, "use a base with the autoencoder of SDXL 1.0")
        self.schedule = noise_schedule(folder / "scheduler")

    def denoiser_parameters(self) -> int:
        return parameters_about(self.folder / "unet")

    def load_denoiser(self, device: torch.device, weights: Weights = "fp32") -> nn.Module:
        from diffusers import UNet2DConditionModel

        return load_denoiser(UNet2DConditionModel, self.folder / "unet", device, weights)

    def load_autoencoder(self, device: torch.device) -> Autoencoder:
        return load_kl_autoencoder(self.folder / "vae", device)

    def load_text_encoder(self, device: torch.device) -> TextEncoder:
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        zeros = bool(read_json(self.folder / "model_index.json").get("force_zeros_for_empty_prompt", True))
        tokenizers = [load_component(CLIPTokenizer, self.folder / name) for name in ("tokenizer", "tokenizer_2")]
        encoders = [
            load_component(kind, self.folder / name, dtype=torch.float32).to(device).requires_grad_(False).eval()
            for kind, name in ((CLIPTextModel, "text_encoder"), (CLIPTextModelWithProjection, "text_encoder_2"))
        ]
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

    def sampling_scheduler(self, inference_steps: int, rows: int, columns: int) -> Any:
        scheduler = sampling_scheduler(self.folder / "scheduler")
        scheduler.set_timesteps(inference_steps)
        return scheduler

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
            unet=component_config(self.folder / "unet"),
            autoencoder=component_config(self.folder / "vae"),
            scheduler=read_json(self.folder / "scheduler" / "scheduler_config.json"),
        )

    def frozen_tensors(self, component: str) -> Mapping[str, Tensor]:
        from diffusers import AutoencoderKL
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        if component == "vae":
            vae: Any = load_component(AutoencoderKL, self.folder / "vae", torch_dtype=torch.float32)
            return dict(vae.state_dict())
        kind = CLIPTextModelWithProjection if component == "text_encoder_2" else CLIPTextModel
        encoder: Any = load_component(kind, self.folder / component, dtype=torch.float32)
        return dict(encoder.state_dict())

    def load_pipeline(self, folder: Path) -> Any:
        return self.pipeline_class().from_pretrained(folder, torch_dtype=torch.float32)

    def load_denoiser_pipeline(self, *, with_texts: bool = False) -> Any:
        texts = () if with_texts else ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
        absent = dict.fromkeys(("vae", *texts, "image_encoder", "feature_extractor"))
        return self.pipeline_class().from_pretrained(self.folder, torch_dtype=torch.float32, **absent)


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
