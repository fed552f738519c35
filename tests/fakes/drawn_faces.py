"""People of ellipses, which a face detector takes for what they are meant to be."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFilter

_SKIN, _HAIR, _COAT = (225, 175, 150), (50, 35, 25), (60, 70, 110)


def with_face(
    picture: Image.Image, center: tuple[float, float], height_px: float, hair: tuple[int, int, int] = _HAIR
) -> Image.Image:
    """The picture and somebody before it: `height_px` is about what a detector calls the face's height."""
    drawn = picture.copy()
    draw, unit = ImageDraw.Draw(drawn), height_px / 2.1
    x, y = center

    def ellipse(across: float, down: float, wide: float, high: float, color: tuple[int, int, int]) -> None:
        box = (across - wide, down - high, across + wide, down + high)
        draw.ellipse([base + unit * value for base, value in zip((x, y, x, y), box, strict=True)], fill=color)

    def polygon(points: list[tuple[float, float]], color: tuple[int, int, int]) -> None:
        draw.polygon([(x + unit * across, y + unit * down) for across, down in points], fill=color)

    polygon([(-1.6, 3), (-1.1, 1.5), (1.1, 1.5), (1.6, 3)], _COAT)
    ellipse(0, -0.25, 0.95, 1.15, hair)
    polygon([(-0.35, 0.8), (0.35, 0.8), (0.35, 1.6), (-0.35, 1.6)], (200, 150, 125))
    ellipse(0, 0.05, 0.78, 1.05, _SKIN)
    for side in (-1, 1):
        ellipse(0.34 * side, -0.12, 0.2, 0.1, (245, 240, 235))
        ellipse(0.34 * side, -0.12, 0.1, 0.1, (70, 45, 30))
        ellipse(0.34 * side, -0.12, 0.045, 0.045, (10, 10, 10))
        ellipse(0.34 * side, -0.36, 0.25, 0.05, (60, 40, 30))
        ellipse(0.5 * side, 0.3, 0.2, 0.15, (228, 165, 142))
    polygon([(0, -0.1), (-0.15, 0.35), (0.15, 0.35)], (212, 160, 135))
    for side in (-1, 1):
        ellipse(0.08 * side, 0.36, 0.05, 0.035, (150, 95, 80))
    ellipse(0, 0.62, 0.3, 0.09, (180, 80, 80))
    return drawn.filter(ImageFilter.GaussianBlur(unit * 0.02))
