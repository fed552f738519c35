"""Aspect buckets: the pixel sizes at which photos of different shapes are trained. Pure arithmetic.

All buckets of a run share, up to rounding, the area of a square with the training resolution as its side:
`w = round_to(stride, resolution · √aspect)`, `h = round_to(stride, resolution / √aspect)`, the aspect rounded to two
decimals. It is the formula of SimpleTuner's area buckets with their 64-pixel alignment; where the resolution itself is
no multiple of 64, or is small, the alignment is 8, which is what a Stable Diffusion VAE needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_ASPECT = 2.0
"""Longer shapes are cropped to 2:1 (or 1:2)."""


@dataclass(frozen=True, order=True)
class Bucket:
    width: int
    height: int
    """Pixels."""

    def __str__(self) -> str:
        return f"{self.width}×{self.height}"


def stride_for(resolution: int) -> int:
    """Pixels of which bucket sides are multiples."""
    return 64 if resolution >= 256 and resolution % 64 == 0 else 8


def bucket_for(width: int, height: int, resolution: int, aspect_buckets: bool) -> Bucket:
    """The bucket of a picture of `width` × `height` pixels (positive); always the square without `aspect_buckets`."""
    if not aspect_buckets:
        return Bucket(resolution, resolution)
    aspect = min(max(round(width / height, 2), 1 / MAX_ASPECT), MAX_ASPECT)
    stride = stride_for(resolution)
    root = math.sqrt(aspect)
    return Bucket(_round_to(stride, resolution * root), _round_to(stride, resolution / root))


def enlargement(width: int, height: int, bucket: Bucket) -> float:
    """The factor by which a picture is scaled to just cover its bucket; above 1 it has too few pixels."""
    return max(bucket.width / width, bucket.height / height)


def cropped_share(width: int, height: int, bucket: Bucket) -> float:
    """The part of the picture, 0…1, that a center crop to the bucket leaves out."""
    scale = enlargement(width, height, bucket)
    return max(0.0, 1.0 - (bucket.width * bucket.height) / (width * height * scale * scale))


def _round_to(stride: int, pixels: float) -> int:
    return max(stride, math.floor(pixels / stride + 0.5) * stride)
