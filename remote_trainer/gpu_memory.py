"""What is asked of the memory that a training shares with nobody."""

from __future__ import annotations

from typing import Protocol

import torch

from .thrift import free_memory


class Memory(Protocol):
    def free_bytes(self) -> int | None:
        """What could be allocated now; None where no such bound is known, as on a CPU: then nothing is tried."""
        ...

    def peak_bytes(self) -> int:
        """The most that was allocated at once since `forget_peak`."""
        ...

    def forget_peak(self) -> None: ...


class DeviceMemory:
    """Implements `Memory` by torch's own books."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"

    def free_bytes(self) -> int | None:
        if not self._on_gpu:
            return None
        free_memory()
        free, _ = torch.cuda.mem_get_info()
        return int(free)

    def peak_bytes(self) -> int:
        return int(torch.cuda.max_memory_allocated()) if self._on_gpu else 0

    def forget_peak(self) -> None:
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
