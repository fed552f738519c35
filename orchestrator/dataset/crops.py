"""Which part of a photo stays when it is cut to the shape of its bucket. Pure functions of pixels.

`center` cuts both sides alike, as the trainer does by itself; `smart` keeps the part with the most edges, which is
where the subject stands in most photos; `face` keeps the face. A window slides in one direction only: the picture was
scaled to just cover its bucket before.
"""

from __future__ import annotations

import itertools
from enum import Enum

from PIL import Image, ImageFilter

from orchestrator.dataset.buckets import Bucket
from orchestrator.dataset.faces import Face

CENTER_PULL = 0.15
"""How much an edge at the rim counts less than one in the middle: most subjects stand there."""


class Crop(Enum):
    CENTER = "center"
    SMART = "smart"
    FACE = "face"
    """Around the largest face, which lies a third from the top; where there is none, as `smart`."""


Box = tuple[int, int, int, int]
"""left, top, right, bottom; pixels."""


def crop_to(picture: Image.Image, bucket: Bucket, crop: Crop, face: Face | None = None) -> Image.Image:
    """`picture` covers `bucket` and exceeds it in one direction at most; the result has the bucket's size. `face`: the
    largest, for `FACE`."""
    return picture.crop(_box(picture, bucket.width, bucket.height, crop, face))


def kept_box(picture: Image.Image, bucket: Bucket, crop: Crop, face: Face | None = None) -> Box:
    """The largest part of a picture of any size that has the bucket's shape, where `crop` puts it."""
    scale = min(picture.width / bucket.width, picture.height / bucket.height)
    return _box(picture, max(1, round(bucket.width * scale)), max(1, round(bucket.height * scale)), crop, face)


def _box(picture: Image.Image, width: int, height: int, crop: Crop, face: Face | None) -> Box:
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    if crop is Crop.FACE and face is not None:
        across, down = face.center
        left = min(max(0, round(across * picture.width - width / 2)), picture.width - width)
        top = min(max(0, round(down * picture.height - height / 3)), picture.height - height)
    elif crop in (Crop.SMART, Crop.FACE):
        energy = picture.convert("L").filter(ImageFilter.FIND_EDGES)
        left = best_offset(_profile(energy, (picture.width, 1)), width)
        top = best_offset(_profile(energy, (1, picture.height)), height)
    return left, top, left + width, top + height


def best_offset(profile: list[float], length: int) -> int:
    """Where a window of `length` entries holds most of `profile`; the one nearest to the middle of equal ones."""
    spare = len(profile) - length
    if spare <= 0:
        return 0
    middle = (len(profile) - 1) / 2
    weighted = [
        value * (1.0 - CENTER_PULL * abs(index - middle) / max(1.0, middle)) for index, value in enumerate(profile)
    ]
    sums = [0.0, *itertools.accumulate(weighted)]
    return max(range(spare + 1), key=lambda at: (round(sums[at + length] - sums[at], 6), -abs(at - spare / 2)))


def _profile(energy: Image.Image, size: tuple[int, int]) -> list[float]:
    """Mean edge strength of each column, or of each row."""
    return [float(value) for value in energy.resize(size, Image.Resampling.BOX).tobytes()]
