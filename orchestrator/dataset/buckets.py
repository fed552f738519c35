"""Aspect buckets: the pixel sizes at which photos of different shapes are trained. Pure arithmetic.

All buckets of a set share, up to rounding, the area of a square with the training resolution as its side:
`w = round_to(stride, resolution · √aspect)`, `h = round_to(stride, resolution / √aspect)`, the aspect rounded to two
decimals. It is the formula of SimpleTuner's area buckets with their 64-pixel alignment; where the resolution itself is
no multiple of 64, or is small, the alignment is 8, which is what a Stable Diffusion VAE needs.

A set may instead give its area in megapixels, or the short edge, as SimpleTuner's files do; both are aligned to 64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, assert_never

MAX_ASPECT = 2.0
"""Longer shapes are cropped to 2:1 (or 1:2)."""


KNOWN_SQUARES = {0.25: 512, 0.5: 768, 1.0: 1024}
"""Megapixels → the side that square pictures get where an area is within KNOWN_WITHIN of one: what bases draw well."""
KNOWN_WITHIN = 0.05


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


@dataclass(frozen=True)
class Sizing:
    """How the pictures of one set get their buckets."""

    unit: Literal["side", "area", "short-edge"]
    value: float
    """Pixels; megapixels for `area`."""
    square: bool
    """Every picture is cropped to a square."""

    def bucket(self, width: int, height: int) -> Bucket:
        """Of a picture of `width` × `height` pixels (positive)."""
        if self.unit == "side":
            return bucket_for(width, height, round(self.value), not self.square)
        aspect = 1.0 if self.square else round(width / height, 2) or 0.01
        if self.unit == "area":
            return area_bucket(aspect, self.value)
        if self.unit == "short-edge":
            edge = _round_to(64, self.value)
            long = _round_to(64, edge * max(aspect, 1 / aspect))
            return Bucket(long, edge) if aspect >= 1 else Bucket(edge, long)
        assert_never(self.unit)

    @property
    def side(self) -> int:
        """Of a square picture, in pixels."""
        return self.bucket(1, 1).width

    def is_too_small(self, width: int, height: int, least: float) -> bool:
        """least: for `area` megapixels of the picture, or of the square it is cropped to; else its shorter side."""
        if self.unit != "area":
            return min(width, height) < least
        if self.square:
            return min(width, height) < math.floor(math.sqrt(least * 1e6))
        return width * height < least * 1e6


def area_bucket(aspect: float, megapixels: float) -> Bucket:
    """SimpleTuner's formula of today: `e = round64(⌊√(mp·10⁶)⌋)`, `w = round64(e·√aspect)`, `h = round64(e/√aspect)`.

    A square becomes one of KNOWN_SQUARES where the area is near theirs: 0.5 megapixels are 768×768, and 640×832 at 3:4.
    """
    if aspect == 1.0:
        for known, side in KNOWN_SQUARES.items():
            if abs(megapixels - known) <= KNOWN_WITHIN:
                return Bucket(side, side)
    edge = _round_to(64, math.floor(math.sqrt(megapixels * 1e6)))
    root = math.sqrt(aspect)
    return Bucket(_round_to(64, edge * root), _round_to(64, edge / root))


def enlargement(width: int, height: int, bucket: Bucket) -> float:
    """The factor by which a picture is scaled to just cover its bucket; above 1 it has too few pixels."""
    return max(bucket.width / width, bucket.height / height)


def cropped_share(width: int, height: int, bucket: Bucket) -> float:
    """The part of the picture, 0…1, that a center crop to the bucket leaves out."""
    scale = enlargement(width, height, bucket)
    return max(0.0, 1.0 - (bucket.width * bucket.height) / (width * height * scale * scale))


def _round_to(stride: int, pixels: float) -> int:
    return max(stride, math.floor(pixels / stride + 0.5) * stride)
