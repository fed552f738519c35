"""The six backgrounds: each makes a canvas of `side` pixels, a little different for every `rng`."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from paint import Rgb, shaded


def _split(side: int, above: Rgb, below: Rgb, rng: np.random.Generator) -> Image.Image:
    """Sky and ground, the horizon at 0.58 to 0.68 of the height."""
    canvas = Image.new("RGB", (side, side), shaded(above, rng, 6))
    ground = (0, round(side * float(rng.uniform(0.58, 0.68))), side, side)
    ImageDraw.Draw(canvas).rectangle(ground, fill=shaded(below, rng, 6))
    return canvas


def _grass(side: int, rng: np.random.Generator) -> Image.Image:
    return _split(side, (176, 222, 252), (122, 200, 92), rng)


def _beach(side: int, rng: np.random.Generator) -> Image.Image:
    canvas = _split(side, (120, 190, 246), (244, 222, 160), rng)
    top = round(side * float(rng.uniform(0.4, 0.46)))
    ImageDraw.Draw(canvas).rectangle((0, top, side, round(side * 0.6)), fill=shaded((44, 120, 200), rng, 6))
    return canvas


def _night(side: int, rng: np.random.Generator) -> Image.Image:
    canvas = _split(side, (34, 40, 104), (66, 68, 116), rng)
    draw = ImageDraw.Draw(canvas)
    x, y, r = side * float(rng.uniform(0.08, 0.92)), side * float(rng.uniform(0.06, 0.16)), side * 0.07
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(246, 240, 200))
    return canvas


def _brick(side: int, rng: np.random.Generator) -> Image.Image:
    canvas = Image.new("RGB", (side, side), shaded((190, 116, 96), rng, 6))
    draw, mortar = ImageDraw.Draw(canvas), (224, 196, 180)
    height, offset, thick = side / 6, float(rng.uniform(0, 1)), round(side / 48)
    for row in range(-1, 7):
        y = (row + offset) * height
        draw.line((0, y, side, y), fill=mortar, width=thick)
        for column in range(4):
            x = (column + 0.5 * (row % 2)) * side / 3
            draw.line((x, y, x, y + height), fill=mortar, width=thick)
    return canvas


def _snow(side: int, rng: np.random.Generator) -> Image.Image:
    return _split(side, (200, 212, 228), (250, 250, 254), rng)


def _plain(side: int, rng: np.random.Generator) -> Image.Image:
    return Image.new("RGB", (side, side), shaded((204, 200, 190), rng, 8))


BACKDROPS = {"grass": _grass, "beach": _beach, "night": _night, "brick": _brick, "snow": _snow, "plain": _plain}
