"""Where encoded pictures wait for their turns: the first of them on the training device, all others in a file.

In 16 channels (SD 3, Flux) a picture of 1024 pixels takes 2.1 MB, so that a few thousand of them, or of their views,
would fill the memory of a host that has room enough for the model.
"""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import torch
from torch import Tensor

HELD_BYTES = 512 << 20
"""What stays in memory: 250 such pictures, or 4,000 of Stable Diffusion's at 512 pixels."""


class Posterior(Protocol):
    """What the autoencoder says about one view of a picture."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w)"""
        ...

    def moments(self) -> Tensor:
        """(2, C, h, w), float32, on the training device: mean and standard deviation of the latents."""
        ...


class Posteriors:
    """Keeps posteriors for as long as any of them is referred to. Writing to a full disk raises OSError."""

    def __init__(self, device: torch.device, folder: Path | None = None, held_bytes: int = HELD_BYTES) -> None:
        """folder: where the file goes, which has no name and vanishes with this process; None: where others go."""
        self._device, self._folder, self._room = device, folder, held_bytes
        self._file: IO[bytes] | None = None

    def keep(self, mean: Tensor, std: Tensor) -> Posterior:
        """mean, std: (C, h, w), float32."""
        moments = torch.stack([mean, std])
        if moments.nbytes <= self._room:
            self._room -= moments.nbytes
            return _Held(moments.to(self._device))
        self._room = 0  # pictures are drawn in no order, so a small one that would still fit is no better off
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - lives as long as we do
        start = self._file.tell()
        unwritten = memoryview(moments.cpu().numpy().tobytes())
        while unwritten:
            unwritten = unwritten[self._file.write(unwritten) :]
        return _Filed(self._file, start, tuple(mean.shape), self._device)


@dataclass(frozen=True)
class _Held:
    _moments: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._moments.shape[1:])

    def moments(self) -> Tensor:
        return self._moments


@dataclass(frozen=True)
class _Filed:
    _file: IO[bytes]
    _start: int
    shape: tuple[int, ...]
    _device: torch.device

    def moments(self) -> Tensor:
        size = 2 * math.prod(self.shape) * torch.float32.itemsize
        read = bytearray(os.pread(self._file.fileno(), size, self._start))
        return torch.frombuffer(read, dtype=torch.float32).view(2, *self.shape).to(self._device)
