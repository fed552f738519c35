"""Pictures with enough in them to be sharp or blurred: patches of many colors, each seed its own scene."""

from __future__ import annotations

import random
from functools import cache

from PIL import Image, ImageDraw


def scene(seed: int, width: int = 300, height: int = 300) -> Image.Image:
    return _drawn(seed, width, height).copy()


@cache
def _drawn(seed: int, width: int, height: int) -> Image.Image:
    draws = random.Random(seed)

    def color() -> tuple[int, int, int]:
        return draws.randrange(40, 220), draws.randrange(40, 220), draws.randrange(40, 220)

    picture = Image.new("RGB", (width, height), color())
    draw = ImageDraw.Draw(picture)
    for _ in range(60):
        x, y = draws.randrange(width), draws.randrange(height)
        draw.ellipse((x, y, x + draws.randrange(20, width // 3), y + draws.randrange(20, height // 3)), color())
    return picture
