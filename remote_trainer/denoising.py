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

    def predict(
        self, noisy: Tensor, timesteps: Tensor, text: TextEmbedding, framing: Tensor, guidance: float = 1.0
    ) -> Tensor:
        """noisy: (B, C, h, w); timesteps: (B,); text: B rows; framing: (B, 6); guidance: 1 in training, as if there
        were none, so that a picture may be guided later. Returns (B, C, h, w), float32.
        """
        family = self.family
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return family.predict(self.model, noisy, timesteps, text.tokens, text.pooled, framing, guidance).float()
