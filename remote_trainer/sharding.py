"""A denoiser in shards (FSDP): each process keeps its part of weights, gradients and optimizer state, and no more.

For full fine-tunings that do not fit one GPU. A block's weights are gathered when it computes and let go again, so
every process must compute the same blocks in the same order, also where only the first has use for the answer: then
the others compute along, with zeros (`attended`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .denoising import Denoising
from .errors import TrainingFailed
from .failures import is_out_of_memory
from .families.api import TextEmbedding
from .wire import TrainSpec
from .world import World

_HINT = "leave train.fsdp out: the GPUs then hold a copy each"


def is_sharded(spec: TrainSpec, world: World) -> bool:
    """Raises TrainingFailed("bad-job") for settings that do not go with shards; a plan refuses them before."""
    if not spec.fsdp or world.size == 1:
        return False
    for broken, setting in (
        (spec.method != "full", f"train.method = {spec.method}"),
        (spec.optimizer != "adamw", f"train.optimizer = {spec.optimizer}"),
        (spec.ema_decay is not None, "train.ema_decay"),
        (spec.text_encoder_learning_rate is not None, "train.text_encoder_learning_rate"),
    ):
        if broken:
            raise TrainingFailed("bad-job", f"{setting} does not go with train.fsdp", _HINT)
    return True


def shard(model: nn.Module, device: torch.device, world: World) -> None:
    """Splits every weight over all processes along its first dimension, in place; `model` comes from the CPU.

    Each block is moved to `device` by itself, so that no GPU ever holds them all. Blocks are the items of lists of
    modules: what gradient checkpointing computes twice, and what is therefore gathered twice.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world.size,))
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    for blocks in reversed(lists):  # inner ones first
        for block in blocks:
            if next(block.parameters(), None) is not None:
                fully_shard(block, mesh=mesh)
    # By itself the outermost would keep its weights gathered after a pass without gradient, and answer by them still
    # when a checkpoint has been restored.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """What the shards make together; `tensor` itself where there are none. To be called by all processes."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def sharded_as(tensor: Tensor, other: Tensor) -> Tensor:
    """This process's part of `tensor` where `other`, of the same shape, is sharded. To be called by all processes."""
    if not hasattr(other, "full_tensor") or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    like: Any = other
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


class ShardedGradients:
    """Takes the place of `world.GradientExchange`: the backward pass leaves each process the mean of its part."""

    def __init__(self, world: World) -> None:
        self._world = world

    def expect(self) -> None:
        """Nothing: shards of several backward passes add up."""

    def finish(self, loss: Tensor) -> Tensor:
        """The mean of all processes' losses, a scalar."""
        return self._world.mean(loss)


@contextmanager
def attended(denoising: Denoising, world: World, *, sharded: bool) -> Iterator[Denoising | None]:
    """What the first process alone does with the denoiser, to be entered by all: it gets one to ask, the others None,
    after they have helped to answer.

    Raises TrainingFailed("out-of-memory") when an answer of shards does: the others cannot be told to try it otherwise.
    """
    if not sharded:
        yield denoising if world.leads else None
    elif world.leads:
        yield _Attended(denoising.family, denoising.model, denoising.device, denoising.precision, world)
        world.from_first(b"")
    else:
        while question := world.from_first(b""):
            _help(denoising, json.loads(question))
        yield None


@dataclass(frozen=True)
class _Attended(Denoising):
    world: World

    def predict(
        self, noisy: Tensor, timesteps: Tensor, text: TextEmbedding, framing: Tensor, guidance: float = 1.0
    ) -> Tensor:
        tensors = (noisy, timesteps, framing, text.tokens, text.pooled)
        shapes = [None if tensor is None else list(tensor.shape) for tensor in tensors]
        self.world.from_first(json.dumps(shapes).encode())
        try:
            return super().predict(noisy, timesteps, text, framing, guidance)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            message = "memory ran out where a sharded denoiser is evaluated or draws; the newest checkpoint is whole"
            hint = "set a smaller `train.resolution`, more `compute.gpu_count`, or `train.validation_prompts = []`"
            raise TrainingFailed("out-of-memory", message, hint) from error


@torch.no_grad()
def _help(denoising: Denoising, shapes: list[list[int] | None]) -> None:
    noisy, timesteps, framing, tokens, pooled = (
        None if shape is None else torch.zeros(shape, device=denoising.device) for shape in shapes
    )
    assert noisy is not None
    assert timesteps is not None
    assert framing is not None
    assert tokens is not None
    denoising.predict(noisy, timesteps, TextEmbedding(tokens, pooled), framing)
