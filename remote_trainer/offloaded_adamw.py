"""AdamW whose moments wait in the host's memory: 8 bytes a weight less on the GPU, for two trips of them a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


class OffloadedAdamW(torch.optim.Optimizer):
    """One parameter's moments at a time come to its device, where the same kernel as that of `adamw` moves them: the
    bits are the same. Waits for every copy, so a checkpoint finds them whole.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float) -> None:
        super().__init__(parameters, {"lr": 0.0, "weight_decay": weight_decay, "fused": True})

    moments_rest_on = torch.device("cpu")
    """Where a checkpoint is to put them."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Parameters without a gradient stay as they are."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["weight_decay"])

    def _update(self, parameter: nn.Parameter, rate: float, weight_decay: float) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = _resting(parameter), _resting(parameter)
        here = [state[name].to(parameter.device) for name in ("exp_avg", "exp_avg_sq")]
        adamw(
            [parameter], [parameter.grad], [here[0]], [here[1]], [], [state["step"]], fused=True, amsgrad=False,
            beta1=_BETAS[0], beta2=_BETAS[1], lr=rate, weight_decay=weight_decay, eps=_EPSILON, maximize=False,
        )  # fmt: skip
        for name, value in zip(("exp_avg", "exp_avg_sq"), here, strict=True):
            state[name].copy_(value)


def _resting(parameter: nn.Parameter) -> Tensor:
    """Zeros of its shape in pages that the GPU reaches by itself."""
    return torch.zeros(parameter.shape, dtype=parameter.dtype, pin_memory=parameter.is_cuda)
