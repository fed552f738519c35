"""Names for what goes wrong outside our own checks: a full disk, exhausted memory."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import TrainingFailed
from .wire import TrainSpec

_ALLOCATION_PHRASES = ("can't allocate memory", "not enough memory", "CUDA out of memory")


@contextmanager
def named_failures(spec: TrainSpec) -> Iterator[None]:
    """Turns ENOSPC and exhausted memory into TrainingFailed; everything else passes unchanged.

    safetensors reports a full disk, and the CPU allocator exhausted memory, by text only.
    """
    try:
        yield
    except TrainingFailed:
        raise
    except Exception as error:
        if _is_disk_full(error):
            message = "the host's disk is full"
            hint = "free some space or lower `train.keep_checkpoints`, then resume: committed checkpoints are whole"
            raise TrainingFailed("disk-full", message, hint) from error
        if is_out_of_memory(error):
            message = f"memory ran out: {str(error).splitlines()[0]}" if str(error) else "memory ran out"
            raise TrainingFailed("out-of-memory", message, memory_hint(spec)) from error
        raise


def _is_disk_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return type(error).__name__ == "SafetensorError" and f"os error {errno.ENOSPC}" in str(error)


def is_out_of_memory(error: Exception) -> bool:
    """Of a GPU or of the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _ALLOCATION_PHRASES)


def memory_hint(spec: TrainSpec) -> str:
    """The setting that saves most without changing what is learned, first."""
    if spec.batch_size > 1:
        more = spec.gradient_accumulation * spec.batch_size
        return f"set `train.batch_size = 1` and `train.gradient_accumulation = {more}`: the same pictures a step"
    if spec.method == "full":
        return 'set `train.method = "lora"`, which needs no optimizer state for the base, or rent more memory'
    return f"set `train.resolution` below {spec.resolution}, or rent more memory"
