"""A moving average of what trains (Polyak & Juditsky 1992): calmer than the last step, and what a run then exports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Keeps the average in float32 on the parameters' device: one more copy of what trains."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = parameters, decay
        self.averages: dict[str, Tensor] = {
            name: parameter.detach().to(torch.float32, copy=True) for name, parameter in parameters.items()
        }
        """By the parameter's name; what a checkpoint stores."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimizer step `step` (1, 2, …): average ← d·average + (1-d)·weight.

        d = min(decay, (1+step)/(10+step)): early on the average follows, else it would remember the untrained model
        (as in TensorFlow's ExponentialMovingAverage and diffusers' EMAModel).
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        weights = [parameter.detach().float() for parameter in self._parameters.values()]
        torch._foreach_lerp_(list(self.averages.values()), weights, 1.0 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the model answers by the average. float32 weights are exchanged, not copied. No training inside."""
        own = {name: parameter.data for name, parameter in self._parameters.items()}
        self.adopt()
        try:
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = own[name]

    def adopt(self) -> None:
        """The model answers by the average from now on."""
        for name, parameter in self._parameters.items():
            parameter.data = self.averages[name].to(parameter.dtype)
