"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206): a transformer on a flow, told by two CLIPs and, where present, T5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..wire import ADAPTERS_ALONE, ExportFormat, Method
from .api import Guidance, TextEmbedding, TextEncoder
from .flow_matching import (
    FlowTransformer,
    TokenWindow,
    clip_window,
    load_text_model,
    noise_schedule,
    require_channels,
    t5_window,
)
from .latent_diffusion import component_config, read_json

_T5_TOKENS = 256
"""As in the pipeline."""


class StableDiffusion3(FlowTransformer):
    """Implements `Family`. Reads configurations only; weights are loaded when asked for.

    Raises TrainingFailed("base-not-found") when a configuration is missing or broken, and "bad-job" for another
    process or other channels.
    """

    name = "stable-diffusion-3"
    guidance: Guidance = "classifier-free"
    lora_targets: tuple[str, ...] = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    )  # fmt: skip
    unused_by_adapters = (
        "vae", "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3",
    )  # fmt: skip
    formats: Mapping[Method, tuple[ExportFormat, ...]] = ADAPTERS_ALONE

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        vae, self._transformer = component_config(folder / "vae"), component_config(folder / "transformer")
        self.latent_channels = int(vae["latent_channels"])
        require_channels(self._transformer, self.latent_channels)
        self.pixels_per_latent = 2 ** (len(vae["block_out_channels"]) - 1)
        self.pixel_multiple = self.pixels_per_latent * int(self._transformer["patch_size"])
        # It learned a place for each patch of a square this large; a picture takes those in the middle.
        self.longest_side = self.pixel_multiple * int(self._transformer["pos_embed_max_size"])
        self.schedule = noise_schedule(folder / "scheduler")

    def denoiser_class(self) -> Any:
        from diffusers import SD3Transformer2DModel

        return SD3Transformer2DModel

    def load_text_encoder(self, device: torch.device) -> TextEncoder:
        from transformers import CLIPTextModelWithProjection, T5EncoderModel

        clips = [
            (
                clip_window(self.folder / f"tokenizer{ending}"),
                load_text_model(CLIPTextModelWithProjection, self.folder / f"text_encoder{ending}", device),
            )
            for ending in ("", "_2")
        ]
        t5 = None
        # Many leave T5 out, which is three quarters of the download; the pipeline then puts zeros in its place.
        if read_json(self.folder / "model_index.json").get("text_encoder_3", [None, None])[1] is not None:
            encoder = load_text_model(T5EncoderModel, self.folder / "text_encoder_3", device)
            t5 = (t5_window(self.folder / "tokenizer_3", _T5_TOKENS), encoder)
        return _ClipsAndT5(clips, t5, int(self._transformer["joint_attention_dim"]), device)

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
        predicted: Tensor = denoiser(
            hidden_states=noisy, timestep=timesteps, encoder_hidden_states=text, pooled_projections=pooled,
            return_dict=False,
        )[0]  # fmt: skip
        return predicted

    def sampling_scheduler(self, inference_steps: int, rows: int, columns: int) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler
        from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

        scheduler: Any = FlowMatchEulerDiscreteScheduler.from_pretrained(self.folder / "scheduler")
        patch, config = int(self._transformer["patch_size"]), scheduler.config
        shift = {}
        if config.use_dynamic_shifting:
            shift["mu"] = calculate_shift(
                (rows // patch) * (columns // patch), config.base_image_seq_len, config.max_image_seq_len,
                config.base_shift, config.max_shift,
            )  # fmt: skip
        scheduler.set_timesteps(inference_steps, **shift)
        return scheduler

    def pipeline_class(self) -> Any:
        from diffusers import StableDiffusion3Pipeline

        return StableDiffusion3Pipeline


class _ClipsAndT5:
    """Both CLIPs' last layer but one, side by side and padded with zeros to T5's width; behind them T5's tokens. The
    vector is that of both CLIPs, side by side.
    """

    def __init__(
        self,
        clips: Sequence[tuple[TokenWindow, Any]],
        t5: tuple[TokenWindow, Any] | None,
        width: int,
        device: torch.device,
    ) -> None:
        self._clips, self._t5, self._width, self._device = clips, t5, width, device
        self.models: Mapping[str, nn.Module] = {}

    def cut_off(self, prompt: str) -> int:
        """What none of them sees: T5's window is the longest."""
        return (self._t5 or self._clips[0])[0].cut_off(prompt)

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        tokens, pooled = [], []
        for window, encoder in self._clips:
            answer = encoder(window.ids(prompts, self._device), output_hidden_states=True)
            tokens.append(answer.hidden_states[-2].float())
            pooled.append(answer[0].float())
        clip = torch.cat(tokens, dim=-1)
        clip = torch.nn.functional.pad(clip, (0, self._width - clip.shape[-1]))
        if self._t5 is None:
            behind = clip.new_zeros(len(prompts), _T5_TOKENS, self._width)
        else:
            window, encoder = self._t5
            behind = encoder(window.ids(prompts, self._device))[0].float()
        return TextEmbedding(torch.cat([clip, behind], dim=1), torch.cat(pooled, dim=-1))
