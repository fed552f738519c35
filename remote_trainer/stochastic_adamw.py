"""AdamW whose weights and moments stay in bfloat16: 6 bytes a weight instead of 12.

bfloat16 has 8 significant bits, so an update of less than 1/512 of a weight would be rounded away every time, and a
second moment that changes by 1/1000 a step would never move. Rounded up or down at random, with odds by the distance,
both arrive on average (Zamirai et al. 2020, arXiv 2010.06192, section 3).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .draws import generator

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


class StochasticAdamW(torch.optim.Optimizer):
    """One parameter at a time in float32, so that no second copy of the model is ever in memory.

    What is rounded how follows from (seed, step, place of the parameter) alone: resuming repeats the bits.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float, seed: int) -> None:
        super().__init__(parameters, {"lr": 0.0, "weight_decay": weight_decay})
        self._seed = seed

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Parameters without a gradient stay as they are."""
        place = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                place += 1
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["weight_decay"], place)

    def _update(self, parameter: nn.Parameter, rate: float, weight_decay: float, place: int) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = (
                0  # a number of Python's: reading one from a GPU would wait for the GPU, for every parameter
            )
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        step = state["step"]
        source = torch.Generator(parameter.device).manual_seed(
            generator("rounding", self._seed, step, place).initial_seed()
        )
        gradient = parameter.grad.float()
        first = state["exp_avg"].float().lerp_(gradient, 1.0 - _BETAS[0])
        second = state["exp_avg_sq"].float().mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1.0 - _BETAS[1])
        weight = parameter.float().mul_(1.0 - rate * weight_decay)
        scale = (second / (1.0 - _BETAS[1] ** step)).sqrt_().add_(_EPSILON)
        weight.addcdiv_(first, scale, value=-rate / (1.0 - _BETAS[0] ** step))
        for kept, exact in ((state["exp_avg"], first), (state["exp_avg_sq"], second), (parameter, weight)):
            kept.copy_(exact if kept.dtype == torch.float32 else stochastically_rounded(exact, source))


def stochastically_rounded(exact: Tensor, source: torch.Generator) -> Tensor:
    """float32 → bfloat16, to one of the two neighbors, so that the mean of many roundings is the number itself.

    bfloat16 is the upper half of float32: uniform noise is added to the lower half, which is then cut off. `source`
    lives on the tensor's device.
    """
    bits = exact.contiguous().view(torch.int32)
    noise = torch.randint(1 << 16, bits.shape, generator=source, device=bits.device, dtype=torch.int32)
    return ((bits + noise) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)
