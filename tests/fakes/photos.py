"""Photographs to test with, good and bad, drawn on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image


def picture(width: int = 120, height: int = 90, mode: str = "RGB") -> Image.Image:
    """Left half red, right half blue in RGB, so that turning and cropping can be seen."""
    image = Image.new("RGB", (width, height), (220, 30, 20))
    image.paste((20, 40, 210), (width // 2, 0, width, height))
    return image if mode == "RGB" else image.convert(mode)


def save_photo(path: Path, width: int = 120, height: int = 90, mode: str = "RGB", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(width, height, mode).save(path, **options)
    return path


def photo_folder(folder: Path, count: int = 5) -> Path:
    """`count` different photos that nothing is wrong with."""
    for index in range(count):
        save_photo(folder / f"{index}.jpg", 120 + index, 90)
    return folder
