"""What can be measured on one photo without a model: sharpness, likeness, light, borders, compression.

Pure functions of pixels (Pillow alone: the laptop has no numpy). All look at a copy with `LOOK_PX` on its longer side,
so that a figure means the same for a phone's photo and for a small one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageFilter, ImageStat

LOOK_PX = 512
"""About what the trainer sees."""
TILES = 4
"""A side: the sharpest of 4 × 4 parts counts, for a background out of focus is no fault."""
_LAPLACIAN = ImageFilter.Kernel((3, 3), (0, 1, 0, 1, -4, 1, 0, 1, 0), scale=2, offset=128)
_BORDER_RANGE = 10
"""Gray levels that a border, as flat as it is, may differ by: JPEG's noise."""
_BORDER_STEP, _BORDER_SHARE = 24, 0.5
"""A picture begins where this part of a line differs from the border by so many levels. A subject before a white wall
begins in a few places first, and is no framed picture."""
_MAX_BORDER = 0.4
_USUAL_CONTRAST = 40.0
"""Of photographs, 30 to 65."""
_COLORS_SIZE = (16, 16)
_ALIKE_BITS = 14
"""Of 128. Two photos that have nothing to do with each other differ in about 50, the same one in another size in 2."""
_ALIKE_LEVELS = 18
"""Of 255, on average: another exposure is let pass, another background is not."""
_STANDARD_LUMINANCE_SUM = 3688
"""Of the table in annex K of ITU-T T.81, which libjpeg scales for its qualities."""


@dataclass(frozen=True)
class Borders:
    """Pixels of the copy that was looked at, as shares (0…1) of its height and width."""

    top: float = 0.0
    bottom: float = 0.0
    left: float = 0.0
    right: float = 0.0

    @property
    def share(self) -> float:
        """0…1 of the picture's area that is border."""
        return 1.0 - max(0.0, 1.0 - self.top - self.bottom) * max(0.0, 1.0 - self.left - self.right)


@dataclass(frozen=True)
class Likeness:
    """What two pictures are compared by."""

    hash: int
    """128 bits: `difference_hash`."""
    colors: bytes
    """16 × 16 RGB pixels."""


@dataclass(frozen=True)
class Measures:
    sharpness: float
    """Variance of the Laplacian in the sharpest tile (see `sharpness`), raised where the photo has little contrast: a
    dark one is not blurred for that.
    """
    brightness: float
    """Mean of the gray levels, 0…255."""
    contrast: float
    """Standard deviation of the gray levels."""
    likeness: Likeness
    borders: Borders
    jpeg_quality: int | None
    """libjpeg's scale, 1…100, as its table tells; None for what is no JPEG."""


def measure(picture: Image.Image, jpeg_tables: object = None) -> Measures:
    """`picture`: RGB, upright, any size. `jpeg_tables`: Pillow's `quantization` of the file, if it has any."""
    small = looked_at(picture)
    gray = small.convert("L")
    stat = ImageStat.Stat(gray)
    return Measures(
        sharpness=sharpness(gray) * _as_if_well_lit(stat.stddev[0]),
        brightness=stat.mean[0],
        contrast=stat.stddev[0],
        likeness=Likeness(difference_hash(gray), small.resize(_COLORS_SIZE, Image.Resampling.BOX).tobytes()),
        borders=borders(gray),
        jpeg_quality=jpeg_quality(jpeg_tables),
    )


def _as_if_well_lit(contrast: float) -> float:
    """The Laplacian's variance grows with the square of the contrast; beyond five times only noise would be raised."""
    return min(5.0, max(1.0, _USUAL_CONTRAST / max(contrast, 1.0))) ** 2


def looked_at(picture: Image.Image) -> Image.Image:
    """Reduced to `LOOK_PX` on the longer side; a smaller picture stays as it is."""
    scale = LOOK_PX / max(picture.size)
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def sharpness(gray: Image.Image) -> float:
    """The variance of the Laplacian (Pech-Pacheco et al. 2000) in gray levels², of the sharpest tile."""
    edges = gray.filter(_LAPLACIAN)
    # The filter leaves the outermost line as it was.
    edges = edges.crop((1, 1, max(2, edges.width - 1), max(2, edges.height - 1)))
    columns = [round(edges.width * n / TILES) for n in range(TILES + 1)]
    rows = [round(edges.height * n / TILES) for n in range(TILES + 1)]
    tiles = (
        edges.crop((left, top, right, bottom))
        for left, right in pairwise(columns)
        for top, bottom in pairwise(rows)
        if right > left and bottom > top
    )
    return 4.0 * max((ImageStat.Stat(tile).var[0] for tile in tiles), default=0.0)


def difference_hash(gray: Image.Image) -> int:
    """Whether each of 8 × 8 parts is brighter than its neighbor to the right, then than the one below: 128 bits.

    Survives another size, another compression and another brightness; not a crop, a turn or a mirror.
    """
    bits = 0
    for size, step in (((9, 8), 1), ((8, 9), 8)):
        small = gray.resize(size, Image.Resampling.BOX).tobytes()
        for row in range(8):
            for column in range(8):
                at = row * size[0] + column
                bits = bits << 1 | (small[at] > small[at + step])
    return bits


def are_alike(one: Likeness, other: Likeness) -> bool:
    """Whether two pictures show the same from the same place: frames of a burst, a photo and its copy in another size.

    Drawn pictures of one kind may have equal hashes, for these know only of lighter and darker; so colors count too.
    """
    if (one.hash ^ other.hash).bit_count() > _ALIKE_BITS:
        return False
    differences = (abs(a - b) for a, b in zip(one.colors, other.colors, strict=True))
    return sum(differences) <= _ALIKE_LEVELS * len(one.colors)


def borders(gray: Image.Image) -> Borders:
    """Flat bars on two opposite sides, as films and frames have them; one flat side alone is a floor or a sky."""
    lines = {
        "top": gray,
        "bottom": gray.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        "left": gray.transpose(Image.Transpose.TRANSPOSE),
        "right": gray.transpose(Image.Transpose.ROTATE_90),
    }
    share = {side: _flat_lines(turned) / turned.height for side, turned in lines.items()}
    for one, other in (("top", "bottom"), ("left", "right")):
        if not (share[one] and share[other]):
            share[one] = share[other] = 0.0
    return Borders(**share)


def _flat_lines(gray: Image.Image) -> int:
    """How many lines from the top are one flat color, if the picture begins below them at once; else 0."""
    content = gray.tobytes()
    first = content[: gray.width]
    color = sorted(first)[len(first) // 2]
    for row in range(int(gray.height * _MAX_BORDER) + 1):
        line = content[row * gray.width : (row + 1) * gray.width]
        if max(line) - color <= _BORDER_RANGE and color - min(line) <= _BORDER_RANGE:
            continue
        # Scaling smears the edge over a line or two.
        below = content[(row + 2) * gray.width : (row + 3) * gray.width]
        different = sum(abs(value - color) > _BORDER_STEP for value in below)
        return row if row > 1 and different >= _BORDER_SHARE * gray.width else 0
    return 0


def jpeg_quality(tables: object) -> int | None:
    """From the sum of the luminance table, by libjpeg's scaling of the standard one; other encoders' tables are near.

    Pillow names the tables 0, 1, …, and the first is the luminance's. Below 25 the standard table is cut off at 255,
    and the figure is a little too high.
    """
    if not isinstance(tables, dict) or not tables:
        return None
    table = next(iter(tables.values()))
    if not isinstance(table, Sequence) or len(table) != 64:
        return None
    percent = 100.0 * sum(table) / _STANDARD_LUMINANCE_SUM
    quality = 5000.0 / percent if percent > 100 else (200.0 - percent) / 2
    return max(1, min(100, round(quality)))
