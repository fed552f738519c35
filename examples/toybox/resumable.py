"""A training loop that may be stopped at any step and goes on with the same bits."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

_SAVE_EVERY_S = 120.0
_TELL_EVERY_STEPS = 50


class Stopped(Exception):
    """SIGTERM or SIGINT came; everything up to the last step is saved."""


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, a plateau, and half a cosine down to nearly 0 over the last `decay_share` of the steps.

    On the plateau the rate does not depend on `steps`: a run that was stopped there may be given another length.
    """

    steps: int
    peak: float
    warmup_steps: int = 100
    decay_share: float = 0.5
    floor_share: float = 0.01

    def rate(self, step: int) -> float:
        """For step 1 to `steps`."""
        rising = min(1.0, step / self.warmup_steps)
        begin = self.steps * (1.0 - self.decay_share)
        fallen = max(0.0, (step - begin) / (self.steps - begin))
        return self.peak * rising * (self.floor_share + (1 - self.floor_share) * 0.5 * (1 + math.cos(math.pi * fallen)))


def train(
    model: nn.Module,
    loss_of_step: Callable[[int], Tensor],
    schedule: Schedule,
    state_file: Path,
    *,
    average: nn.Module | None = None,
    average_decay: float = 0.999,
    weight_decay: float = 0.01,
) -> None:
    """Runs every step of `schedule` that `state_file` does not hold yet; leaves `model` (and `average`) trained.

    loss_of_step(step) must draw all that is random from its step. average: a second module of the same shape, which
    becomes the exponential moving average of the weights. The state is saved every two minutes, atomically, and when
    SIGTERM or SIGINT comes: then Stopped is raised. Blocks.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
    step = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        step = int(state["step"])
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])

    def save() -> None:
        unfinished = state_file.with_suffix(".part")
        content = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        if average is not None:
            content["average"] = average.state_dict()
        torch.save(content, unfinished)
        os.replace(unfinished, state_file)

    saved_at = told_at = time.monotonic()
    losses: list[Tensor] = []
    with _stop_requests() as requests:
        while step < schedule.steps:
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step + 1)
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of_step(step + 1)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if average is not None:
                _follow(average, model, min(average_decay, step / (step + 10)))
            losses.append(loss.detach())
            if step % _TELL_EVERY_STEPS == 0:
                now = time.monotonic()
                mean = torch.stack(losses).mean().item()
                speed = len(losses) / (now - told_at)
                print(f"{state_file.stem} step {step}/{schedule.steps} loss {mean:.5f} {speed:.2f} steps/s", flush=True)
                told_at, losses = now, []
            if requests or time.monotonic() - saved_at > _SAVE_EVERY_S:
                save()
                saved_at = time.monotonic()
            if requests:
                raise Stopped(f"{state_file.stem} stopped at step {step}")
        save()


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - decay)


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that gets every SIGTERM and SIGINT of its time as an element."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
