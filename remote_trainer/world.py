"""Several processes that train one model, each on a GPU of its own, and what they agree on.

The processes are told of each other by the environment variables that `torchrun` sets (RANK, WORLD_SIZE, LOCAL_RANK,
LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT), so either it or `ranks.py` may start them, on one machine or several. What
lies on the disk of the first one's machine, the others are told. Each computes the gradient of its share of every
batch; the mean of them all is what one process would compute for the whole batch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .errors import TrainingFailed

_PATIENCE = timedelta(hours=24)
"""Rank 0 makes class images and exports while the others wait; a process that died is noticed by `ranks.py`."""
_BUCKET_BYTES = 25 << 20


@dataclass(frozen=True)
class World:
    """Alone unless `join` says otherwise. Every method is to be called by all processes, and blocks until it is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among those of its machine."""
    _control: Any = None
    """A group that talks over the CPU: what is agreed on does not wait for the GPU."""

    @property
    def leads(self) -> bool:
        """The one process that reports, evaluates, draws and saves."""
        return self.rank == 0

    @property
    def prepares(self) -> bool:
        """The one process of its machine that makes and fetches what all of them read from its disk."""
        return self.local_rank == 0

    def any(self, wish: bool) -> bool:
        """Whether any process wishes it."""
        return bool(self.largest(int(wish)))

    def largest(self, value: int) -> int:
        if self.size == 1:
            return value
        import torch.distributed as dist

        agreed = torch.tensor(value)
        dist.all_reduce(agreed, dist.ReduceOp.MAX, group=self._control)
        return int(agreed)

    def mean(self, value: Tensor) -> Tensor:
        """Of all processes, on the training device. It is exchanged in place."""
        if self.size > 1:
            import torch.distributed as dist

            dist.all_reduce(value)
        return value / self.size

    def wait_for_all(self) -> None:
        self.largest(0)

    def from_first(self, words: bytes) -> bytes:
        """What the first process says; what the others say is not heard."""
        if self.size == 1:
            return words
        length = torch.tensor(len(words))
        self._send(length)
        spelled = torch.zeros(int(length), dtype=torch.uint8)
        if self.leads and words:
            spelled.copy_(torch.frombuffer(bytearray(words), dtype=torch.uint8))
        self._send(spelled)
        return bytes(spelled.tolist())

    def tensor_from_first(self, tensor: Tensor | None) -> Tensor:
        """That of the first process, on the CPU; what the others give is not looked at."""
        if self.size == 1:
            assert tensor is not None
            return tensor
        about = b"" if tensor is None else json.dumps([str(tensor.dtype).partition(".")[2], *tensor.shape]).encode()
        dtype, *shape = json.loads(self.from_first(about))
        if tensor is None or not self.leads:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        self._send(tensor)
        return tensor

    def _send(self, tensor: Tensor) -> None:
        """As bytes, of which every backend knows how to send them. `tensor` is contiguous."""
        if tensor.numel():
            import torch.distributed as dist

            dist.broadcast(tensor.reshape(-1).view(torch.uint8), src=0, group=self._control)


def join(processes: int, gpus: int) -> World:
    """Meets the other processes of the run. Raises TrainingFailed("environment") when they are not exactly `processes`,
    and TrainingFailed("no-gpu") on a machine that has GPUs, but not one for each.

    That is asserted, not assumed: launchers are known to start one process where two were asked for.
    """
    if processes == 1 and "RANK" not in os.environ:  # clusters state a WORLD_SIZE to whoever logs in
        return World()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size != processes:
        message = f"the job wants {processes} training processes, and {size} were started"
        raise TrainingFailed("environment", message, "set `compute.gpu_count` to what the machine has")
    if size == 1:
        return World()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
    if 0 < gpus < here:
        message = f"the machine shows {gpus} of the {here} GPUs that the job wants"
        raise TrainingFailed("no-gpu", message, "set `compute.gpu_count` to what the machine has")
    import torch.distributed as dist

    on_gpu, local_rank = gpus > 0, int(os.environ.get("LOCAL_RANK", "0"))
    if on_gpu:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    control = dist.new_group(backend="gloo", timeout=_PATIENCE)
    counted = torch.ones(())
    dist.all_reduce(counted, group=control)
    if int(counted) != processes:
        raise TrainingFailed("environment", f"{int(counted)} of {processes} training processes answered")
    return World(dist.get_rank(), size, local_rank, control)


class GradientExchange:
    """Averages gradients over all processes while the backward pass still computes others.

    Parameters are bundled from the last to the first, as their gradients come. Bundles are sent in that order on every
    process, whatever order their gradients came in.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], world: World) -> None:
        self._world = world
        self._bundles = _bundled(list(parameters)[::-1])
        self._missing: list[int] = []
        self._sent: list[tuple[list[nn.Parameter], Tensor, Any]] = []
        self._armed = False
        if world.size > 1:
            for number, bundle in enumerate(self._bundles):
                for parameter in bundle:
                    tell: Any = parameter.register_post_accumulate_grad_hook
                    tell(partial(self._came, number))

    def expect(self) -> None:
        """The next backward pass is the last of its step: what comes now is complete."""
        self._armed = self._world.size > 1
        self._missing, self._sent = [len(bundle) for bundle in self._bundles], []

    def finish(self, loss: Tensor) -> Tensor:
        """Blocks until every gradient is the mean over all processes. Returns the mean of their losses, a scalar."""
        if self._world.size == 1:
            return loss
        self._armed = False
        for number in range(len(self._sent), len(self._bundles)):
            self._send(number)
        mean = self._world.mean(loss.clone())
        for bundle, flat, handle in self._sent:
            handle.wait()
            offset = 0
            for parameter in bundle:
                piece = flat[offset : offset + parameter.numel()].view_as(parameter) / self._world.size
                parameter.grad = piece.to(parameter.dtype)
                offset += parameter.numel()
        self._sent = []
        return mean

    def give_up(self) -> None:
        """Instead of `finish` where a pass has failed: the others' exchange comes to its end. What gradients there are
        then is of no use, in any process.
        """
        if self._world.size == 1:
            return
        if not self._armed:
            self.expect()
        self.finish(torch.zeros((), device=self._bundles[0][0].device))

    def _came(self, number: int, _: Tensor) -> None:
        if not self._armed:
            return
        self._missing[number] -= 1
        while len(self._sent) < len(self._bundles) and self._missing[len(self._sent)] == 0:
            self._send(len(self._sent))

    def _send(self, number: int) -> None:
        import torch.distributed as dist

        bundle = self._bundles[number]
        pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in bundle]
        flat = torch.cat([piece.reshape(-1) for piece in pieces])
        self._sent.append((bundle, flat, dist.all_reduce(flat, async_op=True)))


def _bundled(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    bundles: list[list[nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        size = parameter.numel() * parameter.element_size()
        if not bundles or size > room or bundles[-1][0].dtype != parameter.dtype:
            bundles.append([])
            room = _BUCKET_BYTES
        bundles[-1].append(parameter)
        room -= size
    return bundles
