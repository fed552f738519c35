"""What families share that are a UNet which predicts ε or v."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import TrainingFailed
from ..objective import NoiseSchedule, diffusion_schedule
from ..wire import EVERY_FORMAT, ExportFormat, Method
from .api import Guidance
from .latent_diffusion import DiffusersFolder, component_config, load_component, read_json


class UNetDiffusion(DiffusersFolder):
    """What Stable Diffusion 1.x, 2.x and XL share: a UNet on the latents of a KL autoencoder, trained in every way.

    Raises TrainingFailed("base-not-found") when a configuration is missing or broken, and "bad-job" for another process
    and other channels than this recipe trains (inpainting, depth).
    """

    denoiser_folder = "unet"
    longest_side: int | None = None
    guidance: Guidance = "classifier-free"
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    trainable_texts: tuple[str, ...]
    formats: Mapping[Method, tuple[ExportFormat, ...]] = EVERY_FORMAT
    unused_by_pipeline: tuple[str, ...]
    """Components of the base's pipeline, beside its autoencoder and texts, that no picture needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vae, self.unet = component_config(folder / "vae"), component_config(folder / "unet")
        self.latent_channels = int(self.vae.get("latent_channels", 4))
        self.pixels_per_latent = self.pixel_multiple = 2 ** (len(self.vae["block_out_channels"]) - 1)
        channels = self.unet["in_channels"]
        if channels != self.latent_channels:
            message = f"the base's UNet takes {channels} channels, its latents have {self.latent_channels}"
            raise TrainingFailed("bad-job", message, "use a text-to-image base, not one for inpainting or depth")
        self.schedule = noise_schedule(folder / "scheduler")

    @abstractmethod
    def text_classes(self) -> Mapping[str, Any]:
        """Of transformers, by component: the classes of the text encoders."""

    def denoiser_class(self) -> Any:
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel

    def sampling_scheduler(self, inference_steps: int, rows: int, columns: int) -> Any:
        scheduler = sampling_scheduler(self.folder / "scheduler")
        scheduler.set_timesteps(inference_steps)
        return scheduler

    def scheduler_config(self) -> dict[str, Any]:
        return read_json(self.folder / "scheduler" / "scheduler_config.json")

    def load_text(self, component: str) -> Any:
        """The text encoder, float32, on the CPU."""
        return load_component(self.text_classes()[component], self.folder / component, dtype=torch.float32)

    def frozen_tensors(self, component: str) -> Mapping[str, Tensor]:
        if component != "vae":
            return dict(self.load_text(component).state_dict())
        from diffusers import AutoencoderKL

        vae: Any = load_component(AutoencoderKL, self.folder / "vae", torch_dtype=torch.float32)
        return dict(vae.state_dict())

    def load_denoiser_pipeline(self, *, with_texts: bool = False) -> Any:
        encoders = tuple(self.text_classes())
        texts = () if with_texts else (*encoders, *(name.replace("text_encoder", "tokenizer") for name in encoders))
        absent = dict.fromkeys(("vae", *texts, *self.unused_by_pipeline))
        return self.pipeline_class().from_pretrained(self.folder, torch_dtype=torch.float32, **absent)


def noise_schedule(folder: Path) -> NoiseSchedule:
    """folder: the base's `scheduler`. Raises TrainingFailed("bad-job") for a process that is neither ε nor v."""
    from diffusers import DDPMScheduler

    prediction = read_json(folder / "scheduler_config.json").get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise TrainingFailed("bad-job", f"the base predicts {prediction!r}", "use a base that predicts ε or v")
    # DDPM reads the betas of every scheduler's config; T and ᾱ do not depend on how the base samples.
    alphas_cumprod: Tensor = DDPMScheduler.from_pretrained(folder).alphas_cumprod
    return diffusion_schedule(prediction, alphas_cumprod)


def sampling_scheduler(folder: Path) -> Any:
    """The scheduler that the base's own pipeline samples with; DDIM where that one cannot be imported."""
    import diffusers

    try:
        return getattr(diffusers, read_json(folder / "scheduler_config.json")["_class_name"]).from_pretrained(folder)
    except ImportError:  # a few need scipy, which is not worth its place on a host
        return diffusers.DDIMScheduler.from_pretrained(folder)
