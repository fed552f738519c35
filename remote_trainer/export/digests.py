"""Tensors by name, as digests: lets two copies of a model be compared without holding both in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import TrainingFailed


@dataclass(frozen=True)
class Digest:
    shape: tuple[int, ...]
    dtype: str
    sha256: str
    """Of the bytes in row-major order."""


def digests(tensors: Mapping[str, Tensor]) -> dict[str, Digest]:
    return {name: _digest(tensor) for name, tensor in tensors.items()}


def require_equal(what: str, written: Mapping[str, Digest], read: Mapping[str, Digest]) -> None:
    """Raises TrainingFailed("export-mismatch") naming the first tensor that is missing, surplus or different."""
    for name in sorted(written.keys() | read.keys()):
        if written.get(name) == read.get(name):
            continue
        if name not in read:
            problem = f"{name} is missing after loading"
        elif name not in written:
            problem = f"{name} appeared on loading"
        else:
            problem = f"{name} differs after loading: {written[name]} became {read[name]}"
        hint = "the checkpoint is kept; please report this with the versions in `training.json`"
        raise TrainingFailed("export-mismatch", f"{what} does not load back as it was trained: {problem}", hint)


def _digest(tensor: Tensor) -> Digest:
    plain = tensor.detach().cpu().contiguous()
    raw = plain.reshape(-1).view(torch.uint8).numpy().data
    return Digest(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), hashlib.sha256(raw).hexdigest())
