"""Rows of a text encoder's token embedding, straight from its safetensors file: without torch, numpy, or the rest.

The format is an 8-byte length, a JSON header that says where each tensor lies, and the bytes of the tensors.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from operator import mul
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.errors import UsageError

Vector = tuple[float, ...]

_NAMES = ("token_embedding.weight", "embed_tokens.weight", "wte.weight", "shared.weight")
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}
_MOST_HEADER = 100_000_000


@dataclass(frozen=True)
class EmbeddingTable:
    """Where the rows lie in a file."""

    path: Path
    first_byte: int
    tokens: int
    width: int
    dtype: str

    def rows(self, ids: Iterable[int]) -> dict[int, Vector]:
        """By id; ids beyond the table are left out."""
        size = self.width * _WIDTHS[self.dtype]
        found = {}
        with open(self.path, "rb") as file:
            for id_ in sorted(set(ids)):
                if 0 <= id_ < self.tokens:
                    file.seek(self.first_byte + id_ * size)
                    found[id_] = _floats(file.read(size), self.dtype)
        return found


def find_embeddings(path: Path) -> EmbeddingTable | None:
    """The token embedding in a safetensors file; None when it has none. Raises UsageError for a damaged file."""
    try:
        with open(path, "rb") as file:
            header, begin = read_header(file)
            for name, about in header.items():
                if name.endswith(_NAMES) and about["dtype"] in _WIDTHS and len(about["shape"]) == 2:
                    tokens, width = (int(side) for side in about["shape"])
                    return EmbeddingTable(path, begin + about["data_offsets"][0], tokens, width, about["dtype"])
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise UsageError(f"{path} is no whole safetensors file: {error}") from None
    return None


def read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """What the file says of its tensors, and where their bytes begin."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > _MOST_HEADER:
        raise ValueError("its header has no sensible length")
    return json.loads(file.read(length)), 8 + length


def norm(vector: Vector) -> float:
    return math.sqrt(dot(vector, vector))


def dot(one: Vector, other: Vector) -> float:
    return math.fsum(map(mul, one, other))


def unit(vector: Vector) -> Vector:
    length = norm(vector) or 1.0
    return tuple(value / length for value in vector)


def _floats(raw: bytes, dtype: str) -> Vector:
    if dtype == "BF16":  # the upper half of a float32
        raw = b"".join(b"\0\0" + raw[at : at + 2] for at in range(0, len(raw), 2))
        dtype = "F32"
    letter = {"F32": "f", "F16": "e", "F64": "d"}[dtype]
    return struct.unpack(f"<{len(raw) // _WIDTHS[dtype]}{letter}", raw)
