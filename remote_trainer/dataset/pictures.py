"""Pictures as tensors: read, checked against the job, center-cropped to their bucket. Only originals are resampled."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import TrainingFailed
from ..wire import DatasetSpec, ImageSpec, Job

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Picture:
    """A file on the host and all that training has to know about it."""

    path: Path
    width: int
    height: int
    """Size of the crop in pixels."""
    caption: str
    sha256: str | None
    """None: made on this host, so there is nothing to compare it with."""
    original: bool = False
    """Has to be turned by `orientation` (EXIF's, 1…8) and scaled to just cover the crop."""
    orientation: int = 1
    photo_size: tuple[int, int] | None = None
    """(width, height), upright, before anything resized it; None: that of the picture as it is cropped."""


@dataclass(frozen=True)
class Framing:
    """How a picture came to its bucket, in pixels; each pair is (down, right), as in (height, width).

    SDXL is told these numbers (arXiv 2307.01952, section 2.2), so that it learns neither blur from enlarged photos nor
    cut-off heads from crops.
    """

    original: tuple[int, int]
    """Size before any resizing."""
    crop: tuple[int, int]
    """Top left corner of the crop in the resized picture."""
    target: tuple[int, int]
    """Size of the crop."""

    @classmethod
    def whole(cls, height: int, width: int) -> Framing:
        """Neither resized nor cropped: what a picture that is to be made shall look like."""
        return cls((height, width), (0, 0), (height, width))

    @property
    def values(self) -> tuple[int, ...]:
        """The six numbers in the order that diffusers' scripts give them."""
        return (*self.original, *self.crop, *self.target)


def framing_rows(framings: Sequence[Framing], device: torch.device) -> Tensor:
    """(B, 6), float32: what `Family.predict` takes."""
    return torch.tensor([framing.values for framing in framings], dtype=torch.float32, device=device)


@dataclass(frozen=True)
class TrainingSet:
    """The job's pictures by role. `class_` is empty without prior preservation."""

    instance: tuple[Picture, ...]
    class_: tuple[Picture, ...]


def generated_files(run_folder: Path, spec: DatasetSpec) -> list[Path]:
    """Where the class images that the base makes for `spec` lie, whether they exist yet or not."""
    return [run_folder / spec.folder / "generated" / f"{index:06d}.png" for index in range(spec.generate)]


def training_set(job: Job, run_folder: Path) -> TrainingSet:
    """The pictures the job names, in its order, and after them the generated ones. Opens no file.

    Raises TrainingFailed("bad-job") when nothing shows the subject, or when it is to be generated.
    """
    by_role: dict[str, list[Picture]] = {"instance": [], "class": []}
    for spec in job.datasets:
        if spec.role == "instance" and spec.generate:
            raise TrainingFailed("bad-job", f"dataset {spec.id!r} would have the base invent pictures of the subject")
        pictures = by_role[spec.role]
        pictures += [_named(run_folder, spec, image) for image in spec.images]
        side = job.train.resolution
        pictures += [Picture(path, side, side, spec.prompt, None) for path in generated_files(run_folder, spec)]
    if not by_role["instance"]:
        raise TrainingFailed("bad-job", "the job has no picture of the subject")
    return TrainingSet(tuple(by_role["instance"]), tuple(by_role["class"]))


def _named(run_folder: Path, spec: DatasetSpec, image: ImageSpec) -> Picture:
    caption = spec.prompt if image.caption is None else image.caption
    path = run_folder / spec.folder / image.file
    size, photo = (image.bucket_width, image.bucket_height), None
    if image.photo_width is not None and image.photo_height is not None:
        photo = (image.photo_width, image.photo_height)
    return Picture(path, *size, caption, image.sha256, image.original, image.orientation, photo)


def load_pixels(picture: Picture) -> Tensor:
    """As `load_framed`, without the framing."""
    return load_framed(picture)[0]


def load_framed(picture: Picture) -> tuple[Tensor, Framing]:
    """The center crop, (3, height, width), float32 in [-1, 1], and how it was taken.

    Raises TrainingFailed("bad-image") when the file is missing, is not the one the laptop sent, cannot be read or is
    smaller than its bucket.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        raw = picture.path.read_bytes()
    except FileNotFoundError:
        raise TrainingFailed("bad-image", f"{picture.path} is missing on the host") from None
    if picture.sha256 is not None and hashlib.sha256(raw).hexdigest() != picture.sha256:
        hint = "start the run again: photographs are sent anew when their hashes differ"
        raise TrainingFailed("bad-image", f"{picture.path} is not the file that was sent", hint)
    try:
        if picture.original:
            # The laptop has decoded this very file, by its hash: Pillow need not suspect a large one.
            Image.MAX_IMAGE_PIXELS = None
        with Image.open(picture.path) as opened:
            image = _covering(opened, picture) if picture.original else opened.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise TrainingFailed("bad-image", f"{picture.path} cannot be read as a picture: {error}") from None
    if image.width < picture.width or image.height < picture.height:
        sizes = f"{image.width}×{image.height}, smaller than its bucket {picture.width}×{picture.height}"
        raise TrainingFailed("bad-image", f"{picture.path} is {sizes}")
    left, top = (image.width - picture.width) // 2, (image.height - picture.height) // 2
    cropped = image.crop((left, top, left + picture.width, top + picture.height))
    pixels = torch.from_numpy(np.array(cropped, dtype=np.float32)).permute(2, 0, 1)
    width, height = picture.photo_size or image.size
    return pixels / 127.5 - 1.0, Framing((height, width), (top, left), (picture.height, picture.width))


def _covering(image: Image.Image, picture: Picture) -> Image.Image:
    """Upright RGB, scaled (Lanczos) to just cover the crop, by the very steps of the laptop's `dataset.prepare`: a JPEG
    is decoded at the smallest scale that holds twice the size, reduced, and turned after that. One version of Pillow
    gives one picture, wherever it is scaled."""
    from PIL import Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    across = picture.orientation >= 5
    width, height = (image.height, image.width) if across else image.size
    scale = max(picture.width / width, picture.height / height)
    wide = max(picture.width, math.ceil(width * scale - 1e-6))
    high = max(picture.height, math.ceil(height * scale - 1e-6))
    stored = (high, wide) if across else (wide, high)
    drafted = image.draft(None, (2 * stored[0], 2 * stored[1]))
    plain = image if image.mode in ("L", "RGB") else image.convert("RGB")
    small = plain.resize(stored, Image.Resampling.LANCZOS, drafted[1] if drafted else None, 3.0)
    if picture.orientation in turns:
        small = small.transpose(turns[picture.orientation])
    return small.convert("RGB")
