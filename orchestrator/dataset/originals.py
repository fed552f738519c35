"""Photos that travel with their own pixels (`data.ship_originals`): the machine scales them, as `prepare` does here.

A JPEG keeps its coded data; only what stands around them is left behind, and the turn it needs goes into the job.
Whatever else a photo is, it becomes a PNG of the same pixels, upright and in sRGB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image, ImageChops

from orchestrator.dataset.bare_jpeg import NotBared, bare_jpeg
from orchestrator.dataset.buckets import Bucket
from orchestrator.dataset.picture import (
    UnreadablePicture,
    decode_rgb,
    is_srgb,
    open_picture,
    orientation,
)
from orchestrator.dataset.prepare import as_scanned, picture_name, png
from orchestrator.dataset.scan import Photo
from orchestrator.errors import UsageError
from orchestrator.whole_file import write_atomically
from remote_trainer.wire import ImageSpec


def ship_originals(placed: Sequence[tuple[Photo, Bucket]], folder: Path) -> tuple[ImageSpec, ...]:
    """Every photo into `folder`, in order, as `000-name.jpg` or `.png`, without metadata. Safe to run twice.

    Raises UsageError when a photo is not what was scanned any more, and OSError when `folder` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(ship_original(photo, bucket, folder, index) for index, (photo, bucket) in enumerate(placed))


def ship_original(photo: Photo, bucket: Bucket, folder: Path, index: int) -> ImageSpec:
    content = as_scanned(photo)
    try:
        with open_picture(content) as image:
            turn, jpeg = orientation(image), _bared(content, image)
            shipped = png(decode_rgb(image, (photo.width, photo.height))) if jpeg is None else jpeg
    except UnreadablePicture as error:
        raise UsageError(f"{photo.path} {error.message}", error.hint) from None
    name = picture_name(index, photo, ".png" if jpeg is None else ".jpg")
    write_atomically(folder / name, shipped)
    return ImageSpec(
        name,
        hashlib.sha256(shipped).hexdigest(),
        bucket.width,
        bucket.height,
        photo.caption,
        original=True,
        orientation=1 if jpeg is None else turn,
        photo_width=photo.width,
        photo_height=photo.height,
    )


def _bared(content: bytes, image: Image.Image) -> bytes | None:
    """None for what is no plain JPEG, or looks different without what stood around its picture."""
    if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB"):
        return None
    if not is_srgb(image.info.get("icc_profile"), image.mode):
        return None
    with suppress(NotBared, UnreadablePicture):
        bare = bare_jpeg(content)
        if _same_picture(content, bare):
            return bare
    return None


def _same_picture(one: bytes, other: bytes) -> bool:
    """Decoded at an eighth of the size: every coded block is read for it, in little memory."""
    with open_picture(one) as first, open_picture(other) as second:
        first.draft(None, (1, 1))
        second.draft(None, (1, 1))
        if (first.size, first.mode) != (second.size, second.mode):
            return False
        difference = ImageChops.difference(first, second)
    return difference.getbbox() is None
