"""Small LoRA files as hosted trainers name their tensors, written by hand: eight bytes, a JSON header, the tensors."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping

RANK, WIDTH = 2, 4


def safetensors_bytes(shapes: Mapping[str, tuple[int, int]], seed: int = 1) -> bytes:
    """float32 tensors of small random values."""
    source, header, body = random.Random(seed), dict[str, object](), b""
    for name, (rows, columns) in shapes.items():
        values = struct.pack(f"<{rows * columns}f", *(source.uniform(-0.1, 0.1) for _ in range(rows * columns)))
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [len(body), len(body) + len(values)]}
        body += values
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + body


def flux_lora() -> bytes:
    """As ai-toolkit saves one for FLUX: diffusers' names."""
    layers = [f"transformer.single_transformer_blocks.{block}.attn.to_q" for block in range(2)]
    shapes = {f"{layer}.lora_A.weight": (RANK, WIDTH) for layer in layers}
    return safetensors_bytes(shapes | {f"{layer}.lora_B.weight": (WIDTH, RANK) for layer in layers})


def sdxl_processor_lora() -> bytes:
    """As diffusers' older training scripts save one: by attention processors."""
    processor = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor"
    shapes: dict[str, tuple[int, int]] = {}
    for what in ("q", "k", "v", "out"):
        shapes[f"{processor}.to_{what}_lora.down.weight"] = (RANK, WIDTH)
        shapes[f"{processor}.to_{what}_lora.up.weight"] = (WIDTH, RANK)
    return safetensors_bytes(shapes)
