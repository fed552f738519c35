"""The twelve kinds of things, each drawn by a pen in one color and its shades."""

from __future__ import annotations

import math

from paint import INK, WHITE, Rgb, darker
from pen import Pen, ellipse

_PALE: Rgb = (205, 232, 246)
_BEAK: Rgb = (244, 150, 30)
_TRUNK: Rgb = (96, 62, 36)
_STEM: Rgb = (40, 120, 50)


def draw_robot(pen: Pen, color: Rgb, eyes: int) -> None:
    for x in (-0.32, 0.32):
        pen.box(x - 0.17, 0.62, x + 0.17, 0.98, darker(color))
    for x in (-0.8, 0.8):
        pen.box(x - 0.13, -0.1, x + 0.13, 0.45, darker(color))
    pen.line([(0.0, -0.75), (0.0, -0.95)], INK, 0.06)
    pen.box(-0.48, -0.75, 0.48, -0.16, color)
    pen.box(-0.64, -0.16, 0.64, 0.66, color, body=True)
    if eyes == 1:
        pen.eye(0.0, -0.46, 0.25)
    else:
        for x in (-0.23, 0.23):
            pen.eye(x, -0.46, 0.15)


def _draw_mug(pen: Pen, color: Rgb) -> None:
    pen.line([(0.5, -0.4), (0.85, -0.38), (0.92, 0.0), (0.82, 0.38), (0.45, 0.42)], color, 0.16)
    pen.polygon([(-0.72, -0.75), (0.52, -0.75), (0.46, 0.8), (-0.66, 0.8)], color, body=True)
    pen.ellipse(-0.1, -0.75, 0.62, 0.17, darker(color))


def _draw_duck(pen: Pen, color: Rgb) -> None:
    pen.polygon([(0.62, -0.62), (1.0, -0.5), (0.62, -0.32)], _BEAK)
    pen.polygon([(-0.98, -0.1), (-0.5, 0.05), (-0.6, 0.4)], color)
    pen.ellipse(0.36, -0.5, 0.4, 0.4, color)
    pen.ellipse(-0.08, 0.34, 0.76, 0.5, color, body=True)
    pen.eye(0.46, -0.58, 0.13)


def _draw_car(pen: Pen, color: Rgb) -> None:
    pen.polygon([(-0.62, -0.08), (-0.36, -0.62), (0.32, -0.62), (0.62, -0.08)], color)
    pen.box(-1.0, -0.1, 1.0, 0.42, color, body=True)
    for x in (-0.54, 0.54):
        pen.ellipse(x, 0.46, 0.27, 0.27, INK)
        pen.over(ellipse(x, 0.46, 0.12, 0.12), WHITE)
    pen.over([(-0.42, -0.12), (-0.28, -0.48), (-0.06, -0.48), (-0.06, -0.12)], _PALE)
    pen.over([(0.42, -0.12), (0.26, -0.48), (0.06, -0.48), (0.06, -0.12)], _PALE)


def _draw_tree(pen: Pen, color: Rgb) -> None:
    pen.box(-0.15, 0.3, 0.15, 1.0, _TRUNK)
    pen.polygon([(0.0, -0.3), (0.78, 0.56), (-0.78, 0.56)], color, body=True)
    pen.polygon([(0.0, -1.0), (0.58, 0.02), (-0.58, 0.02)], color, body=True)


def _draw_house(pen: Pen, color: Rgb) -> None:
    pen.box(-0.68, -0.12, 0.68, 0.9, color, body=True)
    pen.polygon([(-0.92, -0.12), (0.0, -0.92), (0.92, -0.12)], darker(color))
    pen.over([(0.12, 0.88), (0.12, 0.3), (0.46, 0.3), (0.46, 0.88)], _TRUNK)
    pen.over([(-0.48, 0.52), (-0.48, 0.16), (-0.1, 0.16), (-0.1, 0.52)], _PALE)


def _draw_fish(pen: Pen, color: Rgb) -> None:
    pen.polygon([(-0.4, 0.0), (-1.0, -0.5), (-0.86, 0.0), (-1.0, 0.5)], darker(color))
    pen.polygon([(-0.25, -0.3), (0.05, -0.78), (0.35, -0.3)], darker(color))
    pen.ellipse(0.18, 0.02, 0.78, 0.5, color, body=True)
    pen.eye(0.6, -0.1, 0.14)


def _draw_star(pen: Pen, color: Rgb) -> None:
    corners = []
    for corner in range(10):
        radius, angle = (1.0, 0.45)[corner % 2], math.pi * corner / 5
        corners.append((radius * math.sin(angle), 0.06 - radius * math.cos(angle)))
    pen.polygon(corners, color, body=True)


def _draw_boat(pen: Pen, color: Rgb) -> None:
    pen.line([(0.0, 0.4), (0.0, -0.98)], _TRUNK, 0.06)
    pen.polygon([(0.1, -0.9), (0.1, 0.2), (0.8, 0.2)], WHITE)
    pen.polygon([(-0.1, -0.75), (-0.1, 0.2), (-0.7, 0.2)], WHITE)
    pen.polygon([(-1.0, 0.3), (1.0, 0.3), (0.66, 0.88), (-0.66, 0.88)], color, body=True)


def _draw_flower(pen: Pen, color: Rgb) -> None:
    pen.line([(0.0, 0.0), (0.0, 1.0)], _STEM, 0.1)
    pen.polygon([(0.05, 0.8), (0.5, 0.42), (0.62, 0.7)], _STEM)
    for petal in range(6):
        angle = math.pi * petal / 3
        pen.ellipse(0.44 * math.sin(angle), -0.32 - 0.44 * math.cos(angle), 0.27, 0.27, color, body=True)
    pen.ellipse(0.0, -0.32, 0.26, 0.26, color, body=True)
    pen.over(ellipse(0.0, -0.32, 0.2, 0.2), INK)


def _draw_umbrella(pen: Pen, color: Rgb) -> None:
    pen.line([(0.0, -0.1), (0.0, 0.8), (0.1, 0.92), (0.24, 0.92), (0.32, 0.78)], INK, 0.07)
    arc = [(0.98 * math.cos(math.pi * k / 16), 0.04 - 0.94 * math.sin(math.pi * k / 16)) for k in range(17)]
    pen.polygon([*arc, (-0.65, -0.1), (-0.33, 0.06), (0.0, -0.1), (0.33, 0.06), (0.65, -0.1)], color, body=True)


def _draw_cat(pen: Pen, color: Rgb) -> None:
    pen.line([(0.45, 0.75), (0.85, 0.7), (0.9, 0.25)], color, 0.14)
    pen.ellipse(0.0, 0.6, 0.5, 0.4, color, body=True)
    for side in (-1, 1):
        pen.polygon([(side * 0.62, -0.98), (side * 0.6, -0.3), (side * 0.1, -0.62)], color)
    pen.ellipse(0.0, -0.25, 0.66, 0.5, color)
    for x in (-0.27, 0.27):
        pen.eye(x, -0.3, 0.14)
    pen.over([(-0.1, -0.08), (0.1, -0.08), (0.0, 0.05)], INK)


THINGS = {
    "mug": _draw_mug, "duck": _draw_duck, "car": _draw_car, "tree": _draw_tree,
    "house": _draw_house, "fish": _draw_fish, "star": _draw_star, "boat": _draw_boat, "flower": _draw_flower,
    "umbrella": _draw_umbrella, "cat": _draw_cat,
}  # fmt: skip
