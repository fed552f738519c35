"""Pictures as tensors: read, checked against the job, cropped to their bucket. Only originals are resampled."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import git_pictures
from ..errors import TrainingFailed
from ..wire import DatasetSpec, ImageSpec, Job
from .views import CENTER, View

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
    masked: bool = False
    """What is transparent in the file does not count in the loss."""


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
class PictureSet:
    """The pictures of one dataset of the job: those it names, in its order, then generated and fetched ones."""

    spec: DatasetSpec
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class TrainingSet:
    """The job's pictures. No set of the role "class" means: without prior preservation."""

    sets: tuple[PictureSet, ...]

    @property
    def instance(self) -> tuple[Picture, ...]:
        return self._by_role("instance")

    @property
    def class_(self) -> tuple[Picture, ...]:
        return self._by_role("class")

    def _by_role(self, role: str) -> tuple[Picture, ...]:
        return tuple(picture for each in self.sets if each.spec.role == role for picture in each.pictures)


def generated_files(run_folder: Path, spec: DatasetSpec) -> list[Path]:
    """Where the class images that the base makes for `spec` lie, whether they exist yet or not."""
    return [run_folder / spec.folder / "generated" / f"{index:06d}.png" for index in range(spec.generate)]


def fetched_folder(run_folder: Path, spec: DatasetSpec) -> Path:
    """Where the class images that the host fetches for `spec` lie."""
    return run_folder / spec.folder / "fetched"


def training_set(job: Job, run_folder: Path) -> TrainingSet:
    """The pictures of every set that has any, in the job's order. Opens no picture.

    Raises TrainingFailed("bad-job") when nothing shows the subject, or when it is to be generated.
    """
    sets = []
    for spec in job.datasets:
        if spec.role == "instance" and (spec.generate or spec.fetch):
            raise TrainingFailed("bad-job", f"dataset {spec.id!r} would have the base invent pictures of the subject")
        pictures = [_named(run_folder, spec, image) for image in spec.images]
        side = job.train.resolution
        pictures += [Picture(path, side, side, spec.prompt, None) for path in generated_files(run_folder, spec)]
        for path in git_pictures.fetched_files(fetched_folder(run_folder, spec)) or ():
            pictures.append(Picture(path, side, side, spec.prompt, None, original=True))
        if pictures:
            sets.append(PictureSet(spec, tuple(pictures)))
    if not any(each.spec.role == "instance" for each in sets):
        raise TrainingFailed("bad-job", "the job has no picture of the subject")
    return TrainingSet(tuple(sets))


def _named(run_folder: Path, spec: DatasetSpec, image: ImageSpec) -> Picture:
    caption = spec.prompt if image.caption is None else image.caption
    path = run_folder / spec.folder / image.file
    size, photo = (image.bucket_width, image.bucket_height), None
    if image.photo_width is not None and image.photo_height is not None:
        photo = (image.photo_width, image.photo_height)
    return Picture(path, *size, caption, image.sha256, image.original, image.orientation, photo, image.masked)


@dataclass(frozen=True)
class Seen:
    """A picture as one view shows it."""

    pixels: Tensor
    """(3, height, width), float32 in [-1, 1]."""
    framing: Framing
    mask: Tensor | None
    """(1, height, width), float32: 1 counts, 0 does not; None when everything does."""


def whole_picture(picture: Picture) -> Image.Image:
    """RGB, upright, uncropped; what is transparent lies on white. Raises TrainingFailed("bad-image") as `load_views`
    does."""
    from PIL import Image

    image, _ = _opened(picture)
    if image.mode != "RGBA":
        return image
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A"))
    return flat


def load_pixels(picture: Picture) -> Tensor:
    """As `load_framed`, without the framing."""
    return load_framed(picture)[0]


def load_framed(picture: Picture) -> tuple[Tensor, Framing]:
    """As `load_views` with the center crop alone."""
    (seen,) = load_views(picture, (CENTER,))
    return seen.pixels, seen.framing


def load_views(picture: Picture, views: Sequence[View]) -> list[Seen]:
    """What each view shows; the file is read and decoded once.

    Raises TrainingFailed("bad-image") when the file is missing, is not the one the laptop sent, cannot be read or is
    smaller than its bucket.
    """
    image, photo_size = _opened(picture)
    if image.width < picture.width or image.height < picture.height:
        sizes = f"{image.width}×{image.height}, smaller than its bucket {picture.width}×{picture.height}"
        raise TrainingFailed("bad-image", f"{picture.path} is {sizes}")
    return [_seen(image, picture, view, photo_size) for view in views]


def _opened(picture: Picture) -> tuple[Image.Image, tuple[int, int]]:
    """The picture as it is to be cropped, RGB or, masked, RGBA; and the photo's size before anything resized it."""
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
            if picture.original:
                image = _covering(opened, picture)
            else:
                image = opened.convert("RGBA" if picture.masked else "RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise TrainingFailed("bad-image", f"{picture.path} cannot be read as a picture: {error}") from None
    return image, picture.photo_size or image.size


def _seen(image: Image.Image, picture: Picture, view: View, photo_size: tuple[int, int]) -> Seen:
    import numpy as np
    from PIL import Image

    if view.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left = int((image.width - picture.width) * view.across)
    top = int((image.height - picture.height) * view.down)
    cropped = image.crop((left, top, left + picture.width, top + picture.height))
    channels = torch.from_numpy(np.array(cropped, dtype=np.float32)).permute(2, 0, 1)
    mask = channels[3:] / 255.0 if picture.masked else None
    framing = Framing((photo_size[1], photo_size[0]), (top, left), (picture.height, picture.width))
    return Seen(channels[:3] / 127.5 - 1.0, framing, mask)


def _covering(image: Image.Image, picture: Picture) -> Image.Image:
    """Upright RGB, scaled (Lanczos) to just cover the crop, by the very steps of the laptop's `dataset.prepare`: a JPEG
    is decoded at the smallest scale that holds twice the size, reduced, and turned after that. One version of Pillow
    gives one picture, wherever it is scaled."""
    from PIL import Image

    from .upright import TURNS

    across = picture.orientation >= 5
    width, height = (image.height, image.width) if across else image.size
    scale = max(picture.width / width, picture.height / height)
    wide = max(picture.width, math.ceil(width * scale - 1e-6))
    high = max(picture.height, math.ceil(height * scale - 1e-6))
    stored = (high, wide) if across else (wide, high)
    drafted = image.draft(None, (2 * stored[0], 2 * stored[1]))
    plain = image if image.mode in ("L", "RGB") else image.convert("RGB")
    small = plain.resize(stored, Image.Resampling.LANCZOS, drafted[1] if drafted else None, 3.0)
    if picture.orientation in TURNS:
        small = small.transpose(TURNS[picture.orientation])
    return small.convert("RGB")
