"""AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import assert_never

import torch
from torch import nn

from .wire import TrainSpec


def learning_rate(step: int, spec: TrainSpec, peak: float) -> float:
    """The rate of the optimizer step that completes step `step` (1 … spec.steps).

    Rises linearly to `peak` over `lr_warmup_steps`, then stays, or falls to `lr_end` at the last step linearly or
    along half a cosine.
    """
    if step <= spec.lr_warmup_steps:
        return peak * step / (spec.lr_warmup_steps + 1)
    first = spec.lr_warmup_steps + 1
    done = (step - first) / max(1, spec.steps - first)
    if spec.lr_schedule == "constant":
        return peak
    if spec.lr_schedule == "linear":
        return peak + (spec.lr_end - peak) * done
    if spec.lr_schedule == "cosine":
        return spec.lr_end + (peak - spec.lr_end) * 0.5 * (1.0 + math.cos(math.pi * done))
    assert_never(spec.lr_schedule)


def adamw(parameters: Iterable[nn.Parameter], spec: TrainSpec) -> torch.optim.AdamW:
    """Fused: one kernel over all parameters, on CPUs and GPUs alike. The rate is set before every step."""
    return torch.optim.AdamW(parameters, lr=0.0, weight_decay=spec.weight_decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
