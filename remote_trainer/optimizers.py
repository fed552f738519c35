"""The optimizers of a job, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, assert_never

import torch
from torch import nn

from .errors import TrainingFailed
from .offloaded_adamw import OffloadedAdamW
from .stochastic_adamw import StochasticAdamW
from .wire import TrainSpec

RATE_SHARE = "rate_share"
"""Key of a parameter group: its rate as a multiple of the run's."""


def learning_rate(step: int, spec: TrainSpec, peak: float) -> float:
    """The rate of the optimizer step that completes step `step` (1 … spec.steps).

    Rises linearly to `peak` over `lr_warmup_steps`, then stays, or falls to `lr_end` at the last step: linearly, along
    half a cosine, or as a power of what is left. `sine` has no warm-up: it swings between `lr_end` and `peak` from the
    middle upwards, and half a wave lasts `lr_warmup_steps`, as SimpleTuner's does.
    """
    if spec.lr_schedule == "sine":
        wave = math.sin(math.pi * (step - 1) / max(1, spec.lr_warmup_steps))
        return spec.lr_end + (peak - spec.lr_end) * 0.5 * (1.0 + wave)
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
    if spec.lr_schedule == "polynomial":
        return spec.lr_end + (peak - spec.lr_end) * math.pow(1.0 - done, spec.lr_power)
    assert_never(spec.lr_schedule)


def groups(parameters: Mapping[str, nn.Parameter], texts: Iterable[str], spec: TrainSpec) -> list[dict[str, Any]]:
    """One for the denoiser, and one for the text encoders, whose rate is a constant multiple of the denoiser's.

    parameters: as of `adapters.Trained`; texts: components of the text encoders that train.
    """
    prefixes = tuple(f"{component}." for component in texts)
    ours = [parameter for name, parameter in parameters.items() if not (prefixes and name.startswith(prefixes))]
    theirs = [parameter for name, parameter in parameters.items() if prefixes and name.startswith(prefixes)]
    share = (spec.text_encoder_learning_rate or 0.0) / (spec.learning_rate or 1.0)
    found: list[dict[str, Any]] = [{"params": ours, RATE_SHARE: 1.0}]
    return [*found, {"params": theirs, RATE_SHARE: share}] if theirs else found


def build_optimizer(parameters: Iterable[Any], spec: TrainSpec) -> torch.optim.Optimizer:
    """With the rate 0: it is set before every step. Raises TrainingFailed("environment") without bitsandbytes."""
    if spec.optimizer == "adamw":  # Loshchilov & Hutter 2019, arXiv 1711.05101; one kernel, on CPUs and GPUs alike
        return torch.optim.AdamW(parameters, lr=0.0, weight_decay=spec.weight_decay, fused=True)
    if spec.optimizer == "adamw-bf16":
        return StochasticAdamW(parameters, weight_decay=spec.weight_decay, seed=spec.seed)
    if spec.optimizer == "adamw-offload":
        return OffloadedAdamW(parameters, weight_decay=spec.weight_decay)
    if spec.optimizer == "adafactor":  # Shazeer & Stern 2018, arXiv 1804.04235
        return torch.optim.Adafactor(parameters, lr=0.0, weight_decay=spec.weight_decay)
    if spec.optimizer == "adamw-8bit":  # Dettmers et al. 2021, arXiv 2110.02861
        eight_bit: torch.optim.Optimizer = _bitsandbytes().optim.AdamW8bit(
            parameters, lr=0.0, weight_decay=spec.weight_decay
        )
        return eight_bit
    assert_never(spec.optimizer)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(RATE_SHARE, 1.0)


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise TrainingFailed(
            "environment",
            "train.optimizer = adamw-8bit needs the library bitsandbytes, which this environment lacks",
            '`--set train.optimizer=adamw-bf16` needs no library; or install it: `pip install "bitsandbytes>=0.45"`',
        ) from error
    return bitsandbytes
