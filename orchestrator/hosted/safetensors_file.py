"""A `.safetensors` file without any library: its header, whether it is whole, and a copy under other names.

The format: eight bytes with the header's length (little endian), the header as JSON (name → dtype, shape, offsets), the
tensors' bytes one after the other. huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from providers.errors import CloudboothError

MAX_HEADER_BYTES = 100 << 20
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
          "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8}  # fmt: skip


class DamagedWeights(CloudboothError):
    """The file is not what its header says."""


@dataclass(frozen=True)
class TensorSpan:
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> tuple[dict[str, TensorSpan], dict[str, str], int]:
    """(tensors, metadata, offset of the first tensor's bytes). Every length is checked against the file's own.

    Raises DamagedWeights.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise DamagedWeights(f"{path.name} is no safetensors file")
        raw = file.read(length)
    try:
        header: dict[str, Any] = json.loads(raw)
        metadata = {str(key): str(value) for key, value in header.pop("__metadata__", {}).items()}
        tensors = {
            name: TensorSpan(str(t["dtype"]), tuple(map(int, t["shape"])), *map(int, t["data_offsets"]))
            for name, t in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedWeights(f"the header of {path.name} cannot be read") from None
    reached = 0
    for name, span in sorted(tensors.items(), key=lambda item: item[1].start):
        if span.start != reached or span.end - span.start != _SIZES.get(span.dtype, 0) * math.prod(span.shape):
            raise DamagedWeights(f"{path.name}: the tensor {name} does not lie where its header says")
        reached = span.end
    if not tensors or 8 + length + reached != size:
        raise DamagedWeights(f"{path.name} has {size} bytes, its header speaks of {8 + length + reached}")
    return tensors, metadata, 8 + length


def copy_renamed(source: Path, target: Path, rename: Callable[[str], str]) -> None:
    """The same tensors, bit by bit, under other names. Raises DamagedWeights when two get the same one."""
    tensors, metadata, offset = read_header(source)
    renamed: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    for name, span in tensors.items():
        if rename(name) in renamed:
            raise DamagedWeights(f"{source.name} names {name} twice")
        renamed[rename(name)] = {
            "dtype": span.dtype, "shape": list(span.shape), "data_offsets": [span.start, span.end],
        }  # fmt: skip
    head = json.dumps(renamed, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with source.open("rb") as given, target.open("wb") as file:
        given.seek(offset)
        file.write(struct.pack("<Q", len(head)) + head)
        while chunk := given.read(1 << 20):
            file.write(chunk)
