"""Pictures as data URIs: decoded and written anew, so that a page holds pixels and no metadata."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from orchestrator.report.contents import Report, Sample, SampleSeries

SAMPLE_SIDE_PX = 512
PHOTO_SIDE_PX = 192
MAX_SAMPLES = 120
"""On one page, of all prompts together."""
MAX_PHOTOS = 60
MAX_PIXELS = 50_000_000
"""A larger picture is left out: it was not made by us."""
SMALL_SIDE_PX = 128
"""Up to here a picture stays without loss: it is shown enlarged, and JPEG's blocks with it."""


@dataclass(frozen=True)
class InlinePicture:
    uri: str
    width: int
    height: int


def shown_samples(report: Report) -> tuple[SampleSeries, ...]:
    """For every prompt its first and last picture and, as far as `MAX_SAMPLES` allows, others spread evenly. Pure."""
    limit = max(2, MAX_SAMPLES // max(1, len(report.samples)))
    return tuple(SampleSeries(series.prompt, _spread(series.samples, limit)) for series in report.samples)


def _spread(samples: tuple[Sample, ...], limit: int) -> tuple[Sample, ...]:
    if len(samples) <= limit:
        return samples
    return tuple(samples[round(index * (len(samples) - 1) / (limit - 1))] for index in range(limit))


class PictureBook:
    """Remembers what it has encoded for as long as it lives: a page that is written anew reads only new files."""

    def __init__(self) -> None:
        self._encoded: dict[tuple[str, int, int], InlinePicture | None] = {}

    def inline(self, report: Report) -> dict[str, InlinePicture]:
        """Path → picture, of all that the page shows; a file that cannot be read as a picture is left out."""
        wanted = [(s.path, SAMPLE_SIDE_PX) for series in shown_samples(report) for s in series.samples]
        wanted += [(photo.path, PHOTO_SIDE_PX) for photo in report.photos[:MAX_PHOTOS]]
        found = {path: self._picture(path, side_px) for path, side_px in wanted}
        return {path: picture for path, picture in found.items() if picture is not None}

    def _picture(self, path: str, side_px: int) -> InlinePicture | None:
        try:
            key = (path, side_px, Path(path).stat().st_mtime_ns)
        except OSError:
            return None
        if key not in self._encoded:
            self._encoded[key] = encoded(Path(path), side_px)
        return self._encoded[key]


def encoded(path: Path, side_px: int) -> InlinePicture | None:
    """Upright, RGB, at most `side_px` on its longer side. None for a file that is no PNG or JPEG, or is too large."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return None
            pixels = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    pixels.thumbnail((side_px, side_px))
    picture = Image.new("RGB", pixels.size)
    picture.paste(pixels)  # what was attached to the file stays behind
    is_small = max(picture.size) <= SMALL_SIDE_PX
    buffer = io.BytesIO()
    if is_small:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=82, optimize=True)
    kind = "png" if is_small else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return InlinePicture(uri, picture.width, picture.height)
