"""A denoiser on its device, asked at the precision of the run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .families.api import Family, TextEmbedding


@dataclass(frozen=True)
class Denoising:
    family: Family
    model: nn.Module
    device: torch.device
    precision: str
    """`fp32`, or `bf16`: computed in bfloat16 where autocast allows, from float32 weights."""

    def predict(self, noisy: Tensor, timesteps: Tensor, text: TextEmbedding, framing: Tensor) -> Tensor:
        """noisy: (B, C, h, w); timesteps: (B,); text: B rows; framing: (B, 6). Returns (B, C, h, w), float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.family.predict(self.model, noisy, timesteps, text.tokens, text.pooled, framing).float()
