"""Draws the six pictures in `photos/` with their captions: the personal subject in four of the six places.

`python draw_photos.py` overwrites them, with equal pixels. Nobody has seen it at night or in the snow.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import world

NAME = "sks robot"
_PLACES: tuple[world.Background, ...] = ("grass", "grass", "beach", "brick", "plain", "plain")
_SEED = 75


def draw_all(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, place in enumerate(_PLACES):
        scene = world.subject_scene(np.random.default_rng((_SEED, number)), place)
        path = folder / f"robot-{number + 1}-{place}.png"
        Image.fromarray(world.draw(scene).pixels).save(path, optimize=True)
        path.with_suffix(".txt").write_text(world.prompt(NAME, place) + "\n")
        written.append(path)
    return written


if __name__ == "__main__":
    for path in draw_all(Path(__file__).parent / "photos"):
        print(path)
