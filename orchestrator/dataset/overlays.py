"""Watermarks, logos and date stamps: what stands at one place in several photos that otherwise differ.

A photo's own edges fall elsewhere in every photo, so what most of them have in common of their gradients is nearly
flat, and what remains is drawn over them (after Dekel et al., On the Effectiveness of Visible Watermarks, CVPR 2017,
who take the median). Looked for in the blue channel, where the orange of date stamps is dark and white is white. Pillow
alone. A mark on fewer than four photos of one shape is not found. docs/photos.md says what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageChops, ImageFilter, ImageStat

LEAST_PHOTOS = 4
"""Of one shape that must agree, and more than half of those that are compared: three agree by chance too often."""
_MOST_PHOTOS = 9
"""That are compared; more tell nothing new."""
MOST_COMPARED = 300
"""Photos of a set that are kept in memory for it, 200 kB each."""
_ACROSS = ImageFilter.Kernel((3, 3), (0, 0, 0, -1, 0, 1, 0, 0, 0), scale=1, offset=128)
_DOWN = ImageFilter.Kernel((3, 3), (0, -1, 0, 0, 0, 0, 0, 1, 0), scale=1, offset=128)
STRONG = 14
"""Gray levels of difference that a median must show to be drawn and not left over."""
TILE_PX = 16
_TILE_SHARE = 0.10
"""Of a tile's pixels that are strong."""
LEAST_TILES = 2
"""That touch each other: lettering is longer than one."""
CARRIES = 0.7
"""Of the mark's pixels that must be edges of a photo that carries it."""


def marked(photos: Mapping[Path, Image.Image]) -> frozenset[Path]:
    """Photos that carry a mark which several have. `photos`: blue channels, upright, as `measures.looked_at` reduces
    them; of photos that show the same scene only one."""
    groups: dict[tuple[int, int], list[Path]] = {}
    for path, blue in photos.items():
        groups.setdefault(blue.size, []).append(path)
    found: set[Path] = set()
    for group in groups.values():
        if len(group) >= LEAST_PHOTOS:
            gradients = {path: _gradients(photos[path]) for path in group}
            mark = _mark(list(gradients.values()))
            if mark is not None:
                found |= {path for path, both in gradients.items() if _carries(both, mark)}
    return frozenset(found)


_Gradients = tuple[Image.Image, Image.Image]
"""Across and down, 128 meaning flat."""


def _gradients(blue: Image.Image) -> _Gradients:
    """The outermost lines, which a filter leaves as they are, are flat."""
    inside = (1, 1, blue.width - 1, blue.height - 1)
    both = []
    for kernel in (_ACROSS, _DOWN):
        flat = Image.new("L", blue.size, 128)
        flat.paste(blue.filter(kernel).crop(inside), inside)
        both.append(flat)
    return both[0], both[1]


def _mark(photos: Sequence[_Gradients]) -> Image.Image | None:
    """Where most of the photos rise or fall alike: 255 at the pixels of what is drawn over them. None without any."""
    count = min(len(photos), _MOST_PHOTOS)
    chosen = [photos[index * len(photos) // count] for index in range(count)]
    agreeing = max(LEAST_PHOTOS, count // 2 + 1)
    strong = Image.new("L", chosen[0][0].size, 0)
    for side in zip(*chosen, strict=True):
        layers = ordered(side)
        rising = layers[count - agreeing].point(lambda level: 255 if level > 128 + STRONG else 0)
        falling = layers[agreeing - 1].point(lambda level: 255 if level < 128 - STRONG else 0)
        strong = ImageChops.lighter(strong, ImageChops.lighter(rising, falling))
    tiles = strong.resize((max(1, strong.width // TILE_PX), max(1, strong.height // TILE_PX)), Image.Resampling.BOX)
    dense = tiles.point(lambda level: 255 if level > 255 * _TILE_SHARE else 0)
    if _largest_patch(dense) < LEAST_TILES:
        return None
    return ImageChops.darker(strong, dense.resize(strong.size, Image.Resampling.NEAREST))


def ordered(images: Sequence[Image.Image]) -> list[Image.Image]:
    """Gray pictures of one size, sorted pixel by pixel from dark to light, by comparing neighbors in turn."""
    layers = list(images)
    for turn in range(len(layers)):
        for index in range(turn % 2, len(layers) - 1, 2):
            one, other = layers[index], layers[index + 1]
            layers[index], layers[index + 1] = ImageChops.darker(one, other), ImageChops.lighter(one, other)
    return layers


def _largest_patch(dense: Image.Image) -> int:
    """Tiles of the largest connected part."""
    width, lit = dense.width, {index for index, level in enumerate(dense.tobytes()) if level}
    largest = 0
    while lit:
        edge, size = [lit.pop()], 0
        while edge:
            at = edge.pop()
            size += 1
            beside = [at - width, at + width]
            beside += [at - 1] if at % width else []
            beside += [at + 1] if (at + 1) % width else []
            for near in beside:
                if near in lit:
                    lit.remove(near)
                    edge.append(near)
        largest = max(largest, size)
    return largest


def _carries(photo: _Gradients, mark: Image.Image) -> bool:
    """Whether the photo has an edge, of either sense, at most of the mark's pixels: a mark may be lighter than one
    photo and darker than another."""
    weak = STRONG // 2
    edges = ImageChops.lighter(*(side.point(lambda level: 255 if abs(level - 128) > weak else 0) for side in photo))
    return ImageStat.Stat(ImageChops.darker(mark, edges)).sum[0] >= CARRIES * ImageStat.Stat(mark).sum[0]
