"""Draws the six pictures in `photos/`: one subject, six places. `python draw_photos.py` overwrites them.

Everything lies on a grid of 16 × 16, which is what the builtin base sees of a picture at 64×64 pixels.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

TEAL, DARK, ORANGE, WHITE, BLACK = "#12a5a5", "#0b6468", "#ff8a1f", "#ffffff", "#101418"


def draw_robot(canvas: Image.Image) -> None:
    """A teal robot with two orange stripes and one eye, over the whole height of a square canvas."""
    draw = ImageDraw.Draw(canvas)
    cell = canvas.width / 16

    def box(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        """Cells of the grid to pixels; Pillow's boxes include their last pixel."""
        return (left * cell, top * cell, right * cell - 1, bottom * cell - 1)

    draw.rectangle(box(5, 14, 7, 16), fill=DARK)
    draw.rectangle(box(9, 14, 11, 16), fill=DARK)
    draw.rounded_rectangle(box(2, 8, 4, 12), radius=cell / 2, fill=DARK)
    draw.rounded_rectangle(box(12, 8, 14, 12), radius=cell / 2, fill=DARK)
    draw.rectangle(box(4, 7, 12, 14), fill=TEAL)
    draw.rectangle(box(4, 8, 12, 10), fill=ORANGE)
    draw.rectangle(box(4, 11, 12, 13), fill=ORANGE)
    draw.ellipse(box(7, 0, 9, 2), fill=ORANGE)
    draw.rounded_rectangle(box(4, 1.5, 12, 7), radius=cell, fill=TEAL)
    draw.ellipse(box(5.6, 1.8, 10.4, 6.6), fill=WHITE)
    draw.ellipse(box(6.9, 3.1, 9.1, 5.3), fill=BLACK)


def two_tone(side: int, above: str, below: str, horizon: float) -> Image.Image:
    """Sky and ground: the part above `horizon` (0 to 1) in one color, the rest in another."""
    canvas = Image.new("RGB", (side, side), above)
    ImageDraw.Draw(canvas).rectangle((0, round(side * horizon), side, side), fill=below)
    return canvas


def draw_all(folder: Path) -> list[Path]:
    """Writes the pictures; the same bytes with the same Pillow."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = {
        "beach": two_tone(192, "#8fd0ff", "#f2dc9b", 10 / 16),
        "meadow": two_tone(192, "#bfe6ff", "#6cc24a", 9 / 16),
        "night": two_tone(160, "#1b2250", "#3a3f74", 11 / 16),
        "room": two_tone(256, "#f4c9c4", "#a8704a", 12 / 16),
        "snow": two_tone(128, "#dfe9f2", "#ffffff", 10 / 16),
        "stage": two_tone(96, "#7b2f8e", "#41204d", 12 / 16),
    }
    written = []
    for name, canvas in scenes.items():
        draw_robot(canvas)
        written.append(folder / f"robot-{name}.png")
        canvas.save(written[-1], optimize=True)
    return written


if __name__ == "__main__":
    for path in draw_all(Path(__file__).parent / "photos"):
        print(path)
