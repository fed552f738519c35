"""One optimizer step: losses of its micro-batches, gradient, clipping, update."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .micro_batch import MicroBatches
from .optimizers import set_learning_rate
from .wire import TrainSpec


def optimizer_step(
    spec: TrainSpec,
    batches: MicroBatches,
    step: int,
    rate: float,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> tuple[Tensor, Tensor]:
    """The step's mean loss over its micro-batches and the norm of its gradient before clipping, both scalars on the
    device: nothing here waits for it."""
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for micro_step in range(spec.gradient_accumulation):
        loss = batches.loss(step, micro_step) / spec.gradient_accumulation
        torch.autograd.backward(loss)
        losses.append(loss.detach())
    gradient_norm = nn.utils.clip_grad_norm_(parameters.values(), spec.max_grad_norm)
    set_learning_rate(optimizer, rate)
    optimizer.step()
    return torch.stack(losses).sum(), gradient_norm
