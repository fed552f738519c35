"""One photo as the trainer wants it: upright RGB, just large enough for its bucket, without metadata.

EXIF (with the place it was taken), XMP, comments and color profiles never leave the laptop: only pixels are written.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from orchestrator.dataset.buckets import Bucket, enlargement
from orchestrator.dataset.picture import UnreadablePicture, decode_rgb, decode_rgba, open_picture, read_content
from orchestrator.dataset.scan import Photo
from orchestrator.errors import UsageError
from orchestrator.whole_file import write_atomically
from remote_trainer.wire import ImageSpec

RECIPE = 1
"""Raised when the same photo and bucket would give other pixels: older files are then made again."""


def prepare_photos(
    placed: Sequence[tuple[Photo, Bucket]], folder: Path, *, masked: bool = False
) -> tuple[ImageSpec, ...]:
    """Every photo into `folder`, in order, as `000-name.png`. Safe to run twice; what is right already is kept.

    masked: those with transparency keep it, and the colors behind it; otherwise they are laid on white.
    """
    return tuple(
        prepare_photo(photo, bucket, folder / picture_name(index, photo, ".png"), masked=masked)
        for index, (photo, bucket) in enumerate(placed)
    )


def prepare_photo(photo: Photo, bucket: Bucket, target: Path, *, masked: bool = False) -> ImageSpec:
    """Writes `target` (PNG) whole or not at all, and says what is in it; `ImageSpec.file` is its name.

    The picture covers the bucket and exceeds it in one direction at most; the trainer crops the rest. Equal input
    gives equal bytes on one version of Pillow. Does nothing when `target` is already made from the same photo.
    Raises UsageError when the photo is not what was scanned any more, and OSError when `target` cannot be written.
    """
    record = target.with_name(f".{target.name}.json")
    origin: dict[str, int | str] = {"recipe": RECIPE, "photo": photo.sha256, "bucket": str(bucket)}
    has_mask = masked and photo.has_transparency
    origin |= {"mask": 1} if has_mask else {}
    sha256 = _already_made(target, record, origin)
    if sha256 is None:
        content = png(fitted(photo, bucket, keep_transparency=has_mask))
        sha256 = hashlib.sha256(content).hexdigest()
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, content)
        write_atomically(record, json.dumps({**origin, "sha256": sha256}).encode())
    return ImageSpec(
        target.name,
        sha256,
        bucket.width,
        bucket.height,
        photo.caption,
        photo_width=photo.width,
        photo_height=photo.height,
        masked=has_mask,
    )


def _already_made(target: Path, record: Path, origin: dict[str, int | str]) -> str | None:
    with suppress(OSError, ValueError):
        recorded = json.loads(record.read_bytes())
        sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
        if recorded == {**origin, "sha256": sha256}:
            return sha256
    return None


def fitted(photo: Photo, bucket: Bucket, *, keep_transparency: bool = False) -> Image.Image:
    """Upright RGB, or RGBA, that covers the bucket and exceeds it in one direction at most. Raises as above."""
    content = as_scanned(photo)
    scale = enlargement(photo.width, photo.height, bucket)
    # Ceiling would add a row when scale · side is whole but for rounding errors. `pictures.load_pixels` does the same.
    width = max(bucket.width, math.ceil(photo.width * scale - 1e-6))
    height = max(bucket.height, math.ceil(photo.height * scale - 1e-6))
    try:
        with open_picture(content) as image:
            made = (decode_rgba if keep_transparency else decode_rgb)(image, (width, height))
    except UnreadablePicture as error:
        raise UsageError(f"{photo.path} {error.message}", error.hint) from None
    if keep_transparency and made.getchannel("A").getextrema()[1] == 0:
        raise UsageError(f"{photo.path} is wholly transparent: as a mask, nothing of it counts", "move it out")
    return made


def as_scanned(photo: Photo) -> bytes:
    """The file's bytes. Raises UsageError when they are not those that were scanned, or cannot be read."""
    try:
        content = read_content(photo.path)
    except UnreadablePicture as error:
        raise UsageError(f"{photo.path} {error.message}", error.hint) from None
    if hashlib.sha256(content).hexdigest() != photo.sha256:
        raise UsageError(
            f"{photo.path} has changed since the plan was made",
            "run the command again, so that the plan shows the photos as they are now",
        )
    return content


def picture_name(index: int, photo: Photo, suffix: str) -> str:
    """Of the file that is shipped: in order, and legible."""
    return f"{index:03d}-{_plain(photo.path.stem)}{suffix}"


def png(image: Image.Image) -> bytes:
    """Of an RGB or RGBA picture's pixels alone."""
    # A new image holds nothing but pixels; Pillow would write the old one's profile and transparency along.
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    file = io.BytesIO()
    bare.save(file, "PNG", compress_level=6)
    return file.getvalue()


def _plain(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:40] or "photo"
