"""Stable Diffusion 1.x and 2.x: a UNet on 4-channel latents, one CLIP text encoder, ε or v prediction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingFailed
from .api import Autoencoder, NoiseSchedule, SingleFileLayout, TextEncoder

_BYTES_PER_PARAMETER = 4


class StableDiffusion:
    """Implements `Family`. Reads configurations only; weights are loaded when asked for.

    Raises TrainingFailed("base-not-found") when a configuration is missing or broken, and "bad-job" for a
    prediction type or a channel count (inpainting, depth) that this recipe does not train.
    """

    name = "stable-diffusion"
    denoiser_folder = "unet"
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        vae, unet = _config(folder / "vae"), _config(folder / "unet")
        self.latent_channels = int(vae.get("latent_channels", 4))
        self.pixels_per_latent = 2 ** (len(vae["block_out_channels"]) - 1)
        if unet["in_channels"] != self.latent_channels:
            message = f"the base's UNet takes {unet['in_channels']} channels, its latents have {self.latent_channels}"
            raise TrainingFailed("bad-job", message, "use a text-to-image base, not one for inpainting or depth")
        self.schedule = _noise_schedule(folder / "scheduler")

    def denoiser_parameters(self) -> int:
        files = list((self.folder / "unet").glob("*.safetensors")) or list((self.folder / "unet").glob("*.bin"))
        return max((path.stat().st_size for path in files), default=0) // _BYTES_PER_PARAMETER

    def load_denoiser(self, device: torch.device) -> nn.Module:
        from diffusers import UNet2DConditionModel

        unet: nn.Module = _load(UNet2DConditionModel, self.folder / "unet", torch_dtype=torch.float32)
        return unet.to(device).requires_grad_(False).eval()

    def load_autoencoder(self, device: torch.device) -> Autoencoder:
        from diffusers import AutoencoderKL

        vae = _load(AutoencoderKL, self.folder / "vae", torch_dtype=torch.float32)
        return _KlAutoencoder(vae.to(device).requires_grad_(False).eval(), device)

    def load_text_encoder(self, device: torch.device) -> TextEncoder:
        from transformers import CLIPTextModel, CLIPTokenizer

        tokenizer = _load(CLIPTokenizer, self.folder / "tokenizer")
        encoder = _load(CLIPTextModel, self.folder / "text_encoder", dtype=torch.float32)
        return _ClipTextEncoder(tokenizer, encoder.to(device).requires_grad_(False).eval(), device)

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        predicted: Tensor = denoiser(noisy, timesteps, encoder_hidden_states=text, return_dict=False)[0]
        return predicted

    def sampling_scheduler(self) -> Any:
        import diffusers

        folder = self.folder / "scheduler"
        try:
            return getattr(diffusers, _json(folder / "scheduler_config.json")["_class_name"]).from_pretrained(folder)
        except ImportError:  # a few need scipy, which is not worth its place on a host
            return diffusers.DDIMScheduler.from_pretrained(folder)

    def pipeline_class(self) -> Any:
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline

    @property
    def single_file(self) -> SingleFileLayout:
        # OpenAI's models use the quick approximation of GELU, OpenCLIP's the exact one.
        exact = _config(self.folder / "text_encoder").get("hidden_act") == "gelu"
        return SingleFileLayout(
            text="open-clip" if exact else "clip",
            prediction=self.schedule.prediction,
            unet=_config(self.folder / "unet"),
            autoencoder=_config(self.folder / "vae"),
            scheduler=_json(self.folder / "scheduler" / "scheduler_config.json"),
        )

    def frozen_tensors(self, component: str) -> Mapping[str, Tensor]:
        from diffusers import AutoencoderKL
        from transformers import CLIPTextModel

        if component == "vae":
            vae: Any = _load(AutoencoderKL, self.folder / "vae", torch_dtype=torch.float32)
            return dict(vae.state_dict())
        encoder: Any = _load(CLIPTextModel, self.folder / "text_encoder", dtype=torch.float32)
        return dict(encoder.state_dict())

    def load_pipeline(self, folder: Path) -> Any:
        return self.pipeline_class().from_pretrained(folder, torch_dtype=torch.float32)

    def load_denoiser_pipeline(self) -> Any:
        absent = dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
        return self.pipeline_class().from_pretrained(self.folder, torch_dtype=torch.float32, **absent)


class _KlAutoencoder:
    def __init__(self, vae: Any, device: torch.device) -> None:
        self._vae, self._device = vae, device
        self._scale = float(vae.config.scaling_factor)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self._vae.encode(pixels.to(self._device)).latent_dist
        return posterior.mean * self._scale, posterior.std * self._scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self._vae.decode(latents.float() / self._scale, return_dict=False)[0]
        return pixels.float().clamp(-1.0, 1.0)


class _ClipTextEncoder:
    def __init__(self, tokenizer: Any, encoder: Any, device: torch.device) -> None:
        self._tokenizer, self._encoder, self._device = tokenizer, encoder, device

        self._window = int(min(tokenizer.model_max_length, encoder.config.max_position_embeddings))

    def cut_off(self, prompt: str) -> int:
        return max(0, len(self._tokenizer(prompt, truncation=False).input_ids) - self._window)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        tokens = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self._window, return_tensors="pt"
        )
        # SD 1.x's pipelines pass no attention mask; some SD 2.x text encoders are configured to expect one.
        masked = getattr(self._encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(self._device) if masked else None
        embeddings: Tensor = self._encoder(tokens.input_ids.to(self._device), attention_mask=mask)[0]
        return embeddings.float()


def _noise_schedule(folder: Path) -> NoiseSchedule:
    from diffusers import DDPMScheduler

    prediction = _json(folder / "scheduler_config.json").get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise TrainingFailed("bad-job", f"the base predicts {prediction!r}", "use a base that predicts ε or v")
    # DDPM reads the betas of every scheduler's config; T and ᾱ do not depend on how the base samples.
    alphas_cumprod: Tensor = DDPMScheduler.from_pretrained(folder).alphas_cumprod
    return NoiseSchedule(prediction, alphas_cumprod.float())


def _load(cls: Any, folder: Path, **options: Any) -> Any:
    try:
        return cls.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        message = f"the base's {folder.name} cannot be loaded: {str(error).strip().splitlines()[0]}"
        hint = "check that the base is a complete diffusers folder with weights that are not only a variant"
        raise TrainingFailed("base-not-found", message, hint) from error


def _config(folder: Path) -> dict[str, Any]:
    return _json(folder / "config.json")


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TrainingFailed("base-not-found", f"the base lacks a readable {path.parent.name}/{path.name}") from error
    return content
