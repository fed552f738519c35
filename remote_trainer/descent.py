"""One optimizer step after another: losses of micro-batches, gradient, clipping, update, average."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .denoising import Denoising
from .ema import Ema
from .errors import TrainingFailed
from .failures import is_out_of_memory, memory_hint
from .micro_batch import MicroBatches
from .optimizers import set_learning_rate
from .sharding import ShardedGradients, is_sharded, whole
from .thrift import Thrift, free_memory, next_rung
from .wire import Decision, TrainSpec
from .world import GradientExchange, World

Say = Callable[[Decision], None]


class Descent:
    """Moves `parameters` against the gradient of `batches`. Nothing in it waits for the GPU."""

    def __init__(
        self,
        spec: TrainSpec,
        denoising: Denoising,
        batches: MicroBatches,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        ema: Ema | None = None,
        world: World | None = None,
    ) -> None:
        self._spec, self._denoising, self._batches = spec, denoising, batches
        self._parameters, self._optimizer, self._ema = parameters, optimizer, ema
        self._world = world or World()
        sharded = is_sharded(spec, self._world)
        self._exchange: GradientExchange | ShardedGradients = (
            ShardedGradients(self._world) if sharded else GradientExchange(parameters.values(), self._world)
        )
        self._has_adapted = False
        self.thrift = Thrift()

    def economize(self, thrift: Thrift) -> None:
        """Every later step is done this way."""
        if thrift.gradient_checkpointing and not self.thrift.gradient_checkpointing:
            denoiser: Any = self._denoising.model
            denoiser.enable_gradient_checkpointing()
        self.thrift = thrift

    def step(self, step: int, rate: float, say: Say = lambda _: None) -> tuple[Tensor, Tensor]:
        """The step's mean loss over its micro-batches and the norm of its gradient before clipping, both scalars.

        A gradient that runs out of memory in any process is computed once more in all, the next thriftier way, of which
        `say` is told, once in a run; the error passes when that does not help either, and where the denoiser is in
        shards: then the others wait in the middle of a pass.
        """
        loss, failure = self._try(step)
        if self._anybody_fell(failure):
            thriftier = next_rung(self.thrift, self._spec.batch_size)
            if thriftier is None or self._has_adapted or isinstance(self._exchange, ShardedGradients):
                message = f"memory ran out at step {step} in another process of the run"
                raise failure or TrainingFailed("out-of-memory", message, memory_hint(self._spec))
            self._has_adapted = True
            say(Decision(str(thriftier), f"memory ran out at step {step}, which is done again this way"))
            self.economize(thriftier)
            loss = self._gradient(step)
        assert loss is not None
        norm = whole(nn.utils.clip_grad_norm_(self._parameters.values(), self._spec.max_grad_norm))
        set_learning_rate(self._optimizer, rate)
        self._optimizer.step()
        if self._ema is not None:
            self._ema.update(step)
        return loss, norm

    def probe(self, thrift: Thrift) -> None:
        """One pass over the largest micro-batch, beside as much memory as the optimizer's states will take."""
        kept_here = 0 if self._spec.optimizer == "adamw-offload" else 2
        moments = [torch.empty_like(parameter) for parameter in self._parameters.values() for _ in range(kept_here)]
        previous = self.thrift
        try:
            self.economize(thrift)
            self._pass(1, self._batches.largest(), part=0)
        finally:
            self.thrift = replace(previous, gradient_checkpointing=self.thrift.gradient_checkpointing)
            self._optimizer.zero_grad(set_to_none=True)
            del moments

    def _try(self, step: int) -> tuple[Tensor | None, Exception | None]:
        """`_gradient`, or the error that memory ran out with."""
        try:
            return self._gradient(step), None
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None, error.with_traceback(None)  # which would keep the failed pass's tensors alive

    def _anybody_fell(self, failure: Exception | None) -> bool:
        """failure: of this process. Frees what it had begun, and lets the others' exchange come to its end."""
        if failure is not None:
            self._optimizer.zero_grad(set_to_none=True)
            free_memory()
        if isinstance(self._exchange, ShardedGradients):
            return failure is not None
        if failure is not None:
            self._exchange.give_up()
        return self._world.any(failure is not None)

    def _gradient(self, step: int) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        losses = []
        passes = [(k, part) for k in range(self._spec.gradient_accumulation) for part in range(self.thrift.parts)]
        for micro_step, part in passes:
            if (micro_step, part) == passes[-1]:
                self._exchange.expect()
            losses.append(self._pass(step, micro_step, part))
        return self._exchange.finish(torch.stack(losses).sum())

    def _pass(self, step: int, micro_step: int, part: int) -> Tensor:
        with self.thrift.saving(self._denoising.device):
            loss = self._batches.loss(step, micro_step, part, self.thrift.parts)
        loss = loss / (self._spec.gradient_accumulation * self.thrift.parts)
        torch.autograd.backward(loss)
        return loss.detach()
