"""Puts photos, the base's answers and a trained model's side by side: `python grid.py MODEL_FOLDER OUT.png`.

One column for each place of the world; the photos stand where their place is. The rows below show the same prompts
with the same noise, "a photo of sks robot …" and "a photo of a robot …".
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import measure
import world
from draw_photos import NAME
from remote_trainer.bases.resolve import resolve_base

_SCALE, _GAP, _MARGIN, _TOP = 2, 6, 96, 20
_SEED = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a diffusers folder that `robot.toml` has made")
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = Path(resolve_base("builtin:toybox", Path()))
    rows: list[tuple[str, list[NDArray[np.uint8] | None]]] = [("photos", _photos())]
    for called in (NAME, "a robot"):
        prompts = [world.prompt(called, place) for place in world.BACKGROUNDS]
        rows.append((f'before: "{called}"', list(measure.pictures(base, prompts, _SEED))))
        rows.append((f'after: "{called}"', list(measure.pictures(arguments.model, prompts, _SEED))))
    _sheet(rows).quantize(256).save(arguments.picture, optimize=True)


def _photos() -> list[NDArray[np.uint8] | None]:
    """The first photo of each place; None for the places that nobody has photographed."""
    found: list[NDArray[np.uint8] | None] = []
    for place in world.BACKGROUNDS:
        paths = sorted(Path(__file__).with_name("photos").glob(f"*-{place}.png"))
        found.append(np.asarray(Image.open(paths[0]).convert("RGB")) if paths else None)
    return found


def _sheet(rows: list[tuple[str, list[NDArray[np.uint8] | None]]]) -> Image.Image:
    step = world.SIDE * _SCALE + _GAP
    sheet = Image.new("RGB", (_MARGIN + step * len(world.BACKGROUNDS), _TOP + step * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, place in enumerate(world.BACKGROUNDS):
        draw.text((_MARGIN + column * step + 4, 4), place, fill="black")
    for number, (label, pictures) in enumerate(rows):
        top = _TOP + number * step
        draw.multiline_text((4, top + step // 2 - 12), label.replace(": ", ":\n"), fill="black")
        for column, pixels in enumerate(pictures):
            if pixels is not None:
                tile = Image.fromarray(pixels).resize((world.SIDE * _SCALE,) * 2, Image.Resampling.NEAREST)
                sheet.paste(tile, (_MARGIN + column * step, top))
    return sheet


if __name__ == "__main__":
    main()
