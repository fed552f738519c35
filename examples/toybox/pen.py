"""A pen that outlines in ink and fills; it remembers the mask of the thing, and the body that carries a pattern."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from PIL import Image, ImageDraw

from paint import INK, WHITE, Rgb

Pattern = Literal["plain", "striped", "dotted"]
Point = tuple[float, float]


class Pen:
    """Draws in the thing's own coordinates: x and y from -1 to 1, y downward, upright and unmirrored.

    center and size: in units of the picture's side; size is half the height of the thing.
    """

    def __init__(self, canvas: Image.Image, center: Point, size: float, tilt_deg: float, *, mirrored: bool) -> None:
        side = canvas.width
        self.mask = Image.new("L", canvas.size)
        self._canvas, self._body = canvas, Image.new("L", canvas.size)
        self._draw, self._draw_mask = ImageDraw.Draw(canvas), ImageDraw.Draw(self.mask)
        self._draw_body = ImageDraw.Draw(self._body)
        turn, scale = math.radians(tilt_deg), size * side
        flip = -1.0 if mirrored else 1.0
        self._xx, self._xy = scale * math.cos(turn) * flip, -scale * math.sin(turn)
        self._yx, self._yy = scale * math.sin(turn) * flip, scale * math.cos(turn)
        self._left, self._top = center[0] * side, center[1] * side
        self._outline = round(side * 0.036)
        self._above: list[tuple[list[Point], Rgb]] = []

    def polygon(self, points: Sequence[Point], color: Rgb, *, body: bool = False) -> None:
        """An outlined area. body: it carries the pattern."""
        placed = self._placed(points)
        closed = [*placed, placed[0], placed[1]]
        for draw, ink in ((self._draw, INK), (self._draw_mask, 255)):
            draw.line(closed, fill=ink, width=self._outline, joint="curve")
        self._draw.polygon(placed, fill=color)
        self._draw_mask.polygon(placed, fill=255)
        self._draw_body.polygon(placed, fill=255 if body else 0)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Rgb, *, body: bool = False) -> None:
        self.polygon(ellipse(x, y, rx, ry), color, body=body)

    def box(self, left: float, top: float, right: float, bottom: float, color: Rgb, *, body: bool = False) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color, body=body)

    def line(self, points: Sequence[Point], color: Rgb, width: float) -> None:
        """Of the given width in the thing's units, outlined in ink."""
        placed, pixels = self._placed(points), round(width * abs(self._yy))
        for draw, ink, wide in (
            (self._draw, INK, pixels + self._outline),
            (self._draw_mask, 255, pixels + self._outline),
            (self._draw, color, pixels),
        ):
            draw.line(placed, fill=ink, width=wide, joint="curve")

    def over(self, points: Sequence[Point], color: Rgb) -> None:
        """An area without outline that lies over the pattern: eyes, windows."""
        self._above.append((self._placed(points), color))

    def eye(self, x: float, y: float, radius: float) -> None:
        self.over(ellipse(x, y, radius, radius), WHITE)
        self.over(ellipse(x, y, radius * 0.55, radius * 0.55), INK)

    def pattern(self, pattern: Pattern, color: Rgb) -> None:
        """Over the body as it has been drawn so far."""
        if pattern == "plain":
            return
        marks = Image.new("L", self._canvas.size)
        draw = ImageDraw.Draw(marks)
        left, top, right, bottom = self._body_extent()
        height = bottom - top
        if pattern == "striped":
            for middle in (0.32, 0.72):
                y, half = top + height * middle, min(0.13, height * 0.11)
                corners = [(left, y - half), (right, y - half), (right, y + half), (left, y + half)]
                draw.polygon(self._placed(corners), fill=255)
        else:
            step = 0.46
            for row in range(math.ceil(height / step)):
                for column in range(math.ceil((right - left) / step)):
                    x, y = left + step * (column + 0.5 * (row % 2) + 0.25), top + step * (row + 0.5)
                    draw.polygon(self._placed(ellipse(x, y, 0.14, 0.14)), fill=255)
        self._canvas.paste(color, mask=Image.composite(marks, Image.new("L", marks.size), self._body))

    def finish(self) -> None:
        for placed, color in self._above:
            self._draw.polygon(placed, fill=color)

    def _body_extent(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the body in the thing's coordinates, its tilt neglected."""
        box = self._body.getbbox() or (0, 0, 1, 1)
        scale = abs(self._yy)
        left, right = (box[0] - self._left) / scale, (box[2] - self._left) / scale
        if self._xx < 0:
            left, right = -right, -left
        return left, (box[1] - self._top) / scale, right, (box[3] - self._top) / scale

    def _placed(self, points: Sequence[Point]) -> list[Point]:
        return [(self._left + x * self._xx + y * self._xy, self._top + x * self._yx + y * self._yy) for x, y in points]


_CIRCLE = [(math.cos(2 * math.pi * k / 24), math.sin(2 * math.pi * k / 24)) for k in range(24)]


def ellipse(x: float, y: float, rx: float, ry: float) -> list[Point]:
    return [(x + rx * cosine, y + ry * sine) for cosine, sine in _CIRCLE]
