"""Reports steps at a readable rate, and notices a diverging run, without waiting for the GPU at every step."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from .errors import TrainingFailed
from .wire import Event, StepDone

_INTERVAL_S = 0.2


class Progress:
    """One training loop's voice. Losses stay on the device until they are reported or `require_finite` asks."""

    def __init__(self, steps: int, pictures_per_step: int, device: torch.device, emit: Callable[[Event], None]) -> None:
        self._steps, self._pictures_per_step, self._device, self._emit = steps, pictures_per_step, device, emit
        self._unchecked: list[Tensor] = []
        self._unreported = 0
        self._is_first = True
        self._last_report_s = time.monotonic()

    def restart_clock(self) -> None:
        """Time spent on anything but steps is not counted in images per second."""
        self._last_report_s = time.monotonic()
        self._unreported = 0

    def step_done(self, step: int, loss: Tensor, gradient_norm: Tensor, rate: float) -> None:
        """loss, gradient_norm: scalars on the device. A process's first step and a run's last are always reported,
        others every 0.2 s at most.

        Raises TrainingFailed("diverged") as `require_finite` does.
        """
        self._unchecked += [loss, gradient_norm]
        self._unreported += 1
        elapsed_s = time.monotonic() - self._last_report_s
        if elapsed_s < _INTERVAL_S and step != self._steps and not self._is_first:
            return
        self._is_first = False
        self.require_finite(step, rate)
        images_per_s = self._unreported * self._pictures_per_step / max(elapsed_s, 1e-6)
        on_gpu = self._device.type == "cuda"
        vram_gb = round(torch.cuda.max_memory_allocated() / 1e9, 2) if on_gpu else None
        self._emit(StepDone(step, self._steps, loss.item(), rate, round(images_per_s, 3), vram_gb))
        self.restart_clock()

    def require_finite(self, step: int, rate: float) -> None:
        """Raises TrainingFailed("diverged") when any loss or gradient norm since the last call is not finite.

        A gradient that is not finite has already spoiled the weights, so this comes before every checkpoint.
        """
        if self._unchecked and not bool(torch.stack(self._unchecked).isfinite().all()):
            hint = f"lower `train.learning_rate` (now {rate:g}), or lower `train.max_grad_norm`"
            raise TrainingFailed("diverged", f"the loss is no finite number any more at step {step}", hint)
        self._unchecked.clear()
