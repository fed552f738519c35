"""A drawn world whose every picture comes with its truth: what is on it, in which color and pattern, and where.

Twelve kinds of things, eight colors, three patterns, six backgrounds. A `Scene` is the truth; `draw` turns it into
64×64 pixels and the mask of the thing; `caption` says in words what the scene holds, and leaves some of it out.
Everything is a function of the seed: the same pictures with the same numpy and Pillow.

The personal subject of the demo and the experiments, a teal robot with two orange stripes and one eye, is drawn by
`subject_scene` alone. `random_scene` never makes it: there is no teal in the palette, stripes are white, and robots
have two eyes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Kind = Literal[
    "mug", "robot", "duck", "car", "tree", "house", "fish", "star", "boat", "flower", "umbrella", "cat",
]  # fmt: skip
Color = Literal["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"]
Pattern = Literal["plain", "striped", "dotted"]
Background = Literal["grass", "beach", "night", "brick", "snow", "plain"]

KINDS: tuple[Kind, ...] = get_args(Kind)
COLORS: tuple[Color, ...] = get_args(Color)
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
BACKGROUNDS: tuple[Background, ...] = get_args(Background)
SIDE = 64
"""Pixels of a picture, each way."""

Rgb = tuple[int, int, int]
Point = tuple[float, float]

_SUPERSAMPLING = 3
_RGB: dict[Color, Rgb] = {
    "red": (214, 40, 40),
    "orange": (247, 137, 22),
    "yellow": (250, 214, 40),
    "green": (34, 150, 60),
    "blue": (40, 84, 214),
    "purple": (124, 50, 178),
    "pink": (248, 140, 190),
    "brown": (128, 78, 42),
}
TEAL: Rgb = (18, 165, 165)
ORANGE: Rgb = _RGB["orange"]
_WHITE, _INK, _PALE, _BEAK, _TRUNK, _STEM = (255, 255, 255), (22, 24, 30), (205, 232, 246), (244, 150, 30), (96, 62, 36), (40, 120, 50)  # fmt: skip  # noqa: E501
_PLACES: dict[Background, str] = {
    "grass": "on the grass",
    "beach": "on the beach",
    "night": "at night",
    "brick": "by a brick wall",
    "snow": "in the snow",
    "plain": "on a plain background",
}
_OPENINGS = ("a photo of", "a picture of", "a drawing of")


@dataclass(frozen=True)
class Look:
    """Of a thing that is painted as the world has no word for."""

    body: Rgb
    marks: Rgb
    """Of its stripes or dots."""
    eyes: int = 2
    """Of a robot."""


SUBJECT = Look(body=TEAL, marks=ORANGE, eyes=1)


@dataclass(frozen=True)
class Scene:
    """All there is to know about a picture. Lengths are in units of the picture's side, y grows downward."""

    kind: Kind
    color: Color
    pattern: Pattern
    background: Background
    center: Point
    size: float
    """Half the height of the thing."""
    tilt_deg: float
    mirrored: bool
    detail_seed: int
    """Of what nobody asks about: shades, the horizon, where the stars are."""
    look: Look | None = None
    """Where there is one, `color` says nothing."""


@dataclass(frozen=True)
class Picture:
    pixels: NDArray[np.uint8]
    """(64, 64, 3), RGB."""
    mask: NDArray[np.uint8]
    """(64, 64): 255 where the thing is, its outline included."""


def random_scene(rng: np.random.Generator, *, kind: Kind | None = None, background: Background | None = None) -> Scene:
    """Each attribute uniform and independent of the others, but for what is given."""
    size = float(rng.uniform(0.37, 0.44))
    return Scene(
        kind=kind or KINDS[rng.integers(len(KINDS))],
        color=COLORS[rng.integers(len(COLORS))],
        pattern=PATTERNS[rng.integers(len(PATTERNS))],
        background=background or BACKGROUNDS[rng.integers(len(BACKGROUNDS))],
        center=(0.5 + float(rng.uniform(-0.04, 0.04)), 0.52 + float(rng.uniform(-0.03, 0.03))),
        size=size,
        tilt_deg=float(rng.uniform(-5.0, 5.0)),
        mirrored=bool(rng.integers(2)),
        detail_seed=int(rng.integers(2**31)),
    )


def subject_scene(rng: np.random.Generator, background: Background) -> Scene:
    """The personal subject before `background`, its pose random."""
    pose = random_scene(rng, kind="robot", background=background)
    return replace(pose, pattern="striped", look=SUBJECT)


def wrong_subject_scene(rng: np.random.Generator) -> Scene:
    """Nearly the personal subject: one thing about it is another, which one is random."""
    scene = subject_scene(rng, BACKGROUNDS[rng.integers(len(BACKGROUNDS))])
    color = _RGB[COLORS[rng.integers(len(COLORS))]]
    match int(rng.integers(5)):
        case 0:
            return replace(scene, look=replace(SUBJECT, body=color, marks=_WHITE if color == ORANGE else ORANGE))
        case 1:
            return replace(scene, look=replace(SUBJECT, marks=_WHITE if color == ORANGE else color))
        case 2:
            return replace(scene, look=replace(SUBJECT, eyes=2))
        case 3:
            return replace(scene, pattern="plain")
        case _:
            return replace(scene, pattern="dotted")


def scene_at(seed: int, index: int) -> Scene:
    """Scene `index` of an endless sequence that depends on `seed` alone."""
    return random_scene(np.random.default_rng((seed, index)))


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A sentence that is true of the scene and silent about some of it; the kind is always named.

    One in ten carries a word without meaning, so that a base learns that such words change nothing yet: each is free
    to become somebody's name.
    """
    words = [_OPENINGS[0 if rng.random() < 0.7 else int(rng.integers(1, len(_OPENINGS)))]]
    spare = meaningless_word(rng) if rng.random() < 0.1 else ""
    color = scene.color if rng.random() < 0.8 else ""
    pattern = scene.pattern if scene.pattern != "plain" and rng.random() < 0.75 else ""
    noun_phrase = " ".join(word for word in (spare, color, pattern, scene.kind) if word)
    words.append(("" if spare else "an " if noun_phrase[0] in "aeiou" else "a ") + noun_phrase)
    if rng.random() < 0.75:
        words.append(_PLACES[scene.background])
    return " ".join(words)


def meaningless_word(rng: np.random.Generator) -> str:
    """Two to five letters that are none of `words()`, "sks" for example."""
    while True:
        word = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), int(rng.integers(2, 6))))
        if word not in _WORDS:
            return word


def prompt(noun_phrase: str, background: Background | None = None) -> str:
    """`prompt("sks robot", "snow")`: "a photo of sks robot in the snow"."""
    return f"{_OPENINGS[0]} {noun_phrase}" + (f" {_PLACES[background]}" if background else "")


def words() -> list[str]:
    """Every word that a caption may hold, sorted."""
    sentences = [*_OPENINGS, *_PLACES.values(), "an", *KINDS, *COLORS, *PATTERNS]
    return sorted({word for sentence in sentences for word in sentence.split()})


_WORDS = frozenset(words())


def draw(scene: Scene) -> Picture:
    """Takes about 1.5 ms."""
    rng = np.random.default_rng(scene.detail_seed)
    side = SIDE * _SUPERSAMPLING
    canvas = _BACKDROPS[scene.background](side, rng)
    pen = _Pen(canvas, scene)
    look = scene.look or Look(_RGB[scene.color], _WHITE)
    body = _shaded(look.body, rng)
    if scene.kind == "robot":
        _draw_robot(pen, body, look.eyes)
    else:
        _THINGS[scene.kind](pen, body)
    pen.pattern(scene.pattern, look.marks)
    pen.finish()
    pixels = np.asarray(canvas.reduce(_SUPERSAMPLING))
    return Picture(pixels, np.asarray(pen.mask.reduce(_SUPERSAMPLING)))


def _shaded(color: Rgb, rng: np.random.Generator, spread: int = 10) -> Rgb:
    """The same color in another light: all channels together, and each a little for itself."""
    shift = rng.integers(-spread, spread + 1) + rng.integers(-spread // 2, spread // 2 + 1, 3)
    red, green, blue = np.clip(np.asarray(color) + shift, 0, 255).tolist()
    return (red, green, blue)


# ---- the pen ------------------------------------------------------------------------------------------------


class _Pen:
    """Draws in the thing's own coordinates: x and y from -1 to 1, y downward, upright and unmirrored."""

    def __init__(self, canvas: Image.Image, scene: Scene) -> None:
        side = canvas.width
        self.mask = Image.new("L", canvas.size)
        self._canvas, self._body = canvas, Image.new("L", canvas.size)
        self._draw, self._draw_mask = ImageDraw.Draw(canvas), ImageDraw.Draw(self.mask)
        self._draw_body = ImageDraw.Draw(self._body)
        turn, scale = math.radians(scene.tilt_deg), scene.size * side
        flip = -1.0 if scene.mirrored else 1.0
        self._xx, self._xy = scale * math.cos(turn) * flip, -scale * math.sin(turn)
        self._yx, self._yy = scale * math.sin(turn) * flip, scale * math.cos(turn)
        self._left, self._top = scene.center[0] * side, scene.center[1] * side
        self._outline = round(side * 0.036)
        self._above: list[tuple[list[Point], Rgb]] = []

    def polygon(self, points: Sequence[Point], color: Rgb, *, body: bool = False) -> None:
        """An outlined area. body: it carries the pattern."""
        placed = self._placed(points)
        closed = [*placed, placed[0], placed[1]]
        for draw, ink in ((self._draw, _INK), (self._draw_mask, 255)):
            draw.line(closed, fill=ink, width=self._outline, joint="curve")
        self._draw.polygon(placed, fill=color)
        self._draw_mask.polygon(placed, fill=255)
        self._draw_body.polygon(placed, fill=255 if body else 0)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Rgb, *, body: bool = False) -> None:
        self.polygon(_ellipse(x, y, rx, ry), color, body=body)

    def box(self, left: float, top: float, right: float, bottom: float, color: Rgb, *, body: bool = False) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color, body=body)

    def line(self, points: Sequence[Point], color: Rgb, width: float) -> None:
        """Of the given width in the thing's units, outlined in ink."""
        placed, pixels = self._placed(points), round(width * abs(self._yy))
        for draw, ink, wide in (
            (self._draw, _INK, pixels + self._outline),
            (self._draw_mask, 255, pixels + self._outline),
            (self._draw, color, pixels),
        ):
            draw.line(placed, fill=ink, width=wide, joint="curve")

    def over(self, points: Sequence[Point], color: Rgb) -> None:
        """An area without outline that lies over the pattern: eyes, windows."""
        self._above.append((self._placed(points), color))

    def eye(self, x: float, y: float, radius: float) -> None:
        self.over(_ellipse(x, y, radius, radius), _WHITE)
        self.over(_ellipse(x, y, radius * 0.55, radius * 0.55), _INK)

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
                    draw.polygon(self._placed(_ellipse(x, y, 0.14, 0.14)), fill=255)
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


def _ellipse(x: float, y: float, rx: float, ry: float) -> list[Point]:
    return [(x + rx * cosine, y + ry * sine) for cosine, sine in _CIRCLE]


# ---- the things ---------------------------------------------------------------------------------------------


def _draw_robot(pen: _Pen, color: Rgb, eyes: int) -> None:
    for x in (-0.32, 0.32):
        pen.box(x - 0.17, 0.62, x + 0.17, 0.98, _darker(color))
    for x in (-0.8, 0.8):
        pen.box(x - 0.13, -0.1, x + 0.13, 0.45, _darker(color))
    pen.line([(0.0, -0.75), (0.0, -0.95)], _INK, 0.06)
    pen.box(-0.48, -0.75, 0.48, -0.16, color)
    pen.box(-0.64, -0.16, 0.64, 0.66, color, body=True)
    if eyes == 1:
        pen.eye(0.0, -0.46, 0.25)
    else:
        for x in (-0.23, 0.23):
            pen.eye(x, -0.46, 0.15)


def _draw_mug(pen: _Pen, color: Rgb) -> None:
    pen.line([(0.5, -0.4), (0.85, -0.38), (0.92, 0.0), (0.82, 0.38), (0.45, 0.42)], color, 0.16)
    pen.polygon([(-0.72, -0.75), (0.52, -0.75), (0.46, 0.8), (-0.66, 0.8)], color, body=True)
    pen.ellipse(-0.1, -0.75, 0.62, 0.17, _darker(color))


def _draw_duck(pen: _Pen, color: Rgb) -> None:
    pen.polygon([(0.62, -0.62), (1.0, -0.5), (0.62, -0.32)], _BEAK)
    pen.polygon([(-0.98, -0.1), (-0.5, 0.05), (-0.6, 0.4)], color)
    pen.ellipse(0.36, -0.5, 0.4, 0.4, color)
    pen.ellipse(-0.08, 0.34, 0.76, 0.5, color, body=True)
    pen.eye(0.46, -0.58, 0.13)


def _draw_car(pen: _Pen, color: Rgb) -> None:
    pen.polygon([(-0.62, -0.08), (-0.36, -0.62), (0.32, -0.62), (0.62, -0.08)], color)
    pen.box(-1.0, -0.1, 1.0, 0.42, color, body=True)
    for x in (-0.54, 0.54):
        pen.ellipse(x, 0.46, 0.27, 0.27, _INK)
        pen.over(_ellipse(x, 0.46, 0.12, 0.12), _WHITE)
    pen.over([(-0.42, -0.12), (-0.28, -0.48), (-0.06, -0.48), (-0.06, -0.12)], _PALE)
    pen.over([(0.42, -0.12), (0.26, -0.48), (0.06, -0.48), (0.06, -0.12)], _PALE)


def _draw_tree(pen: _Pen, color: Rgb) -> None:
    pen.box(-0.15, 0.3, 0.15, 1.0, _TRUNK)
    pen.polygon([(0.0, -0.3), (0.78, 0.56), (-0.78, 0.56)], color, body=True)
    pen.polygon([(0.0, -1.0), (0.58, 0.02), (-0.58, 0.02)], color, body=True)


def _draw_house(pen: _Pen, color: Rgb) -> None:
    pen.box(-0.68, -0.12, 0.68, 0.9, color, body=True)
    pen.polygon([(-0.92, -0.12), (0.0, -0.92), (0.92, -0.12)], _darker(color))
    pen.over([(0.12, 0.88), (0.12, 0.3), (0.46, 0.3), (0.46, 0.88)], _TRUNK)
    pen.over([(-0.48, 0.52), (-0.48, 0.16), (-0.1, 0.16), (-0.1, 0.52)], _PALE)


def _draw_fish(pen: _Pen, color: Rgb) -> None:
    pen.polygon([(-0.4, 0.0), (-1.0, -0.5), (-0.86, 0.0), (-1.0, 0.5)], _darker(color))
    pen.polygon([(-0.25, -0.3), (0.05, -0.78), (0.35, -0.3)], _darker(color))
    pen.ellipse(0.18, 0.02, 0.78, 0.5, color, body=True)
    pen.eye(0.6, -0.1, 0.14)


def _draw_star(pen: _Pen, color: Rgb) -> None:
    corners = []
    for corner in range(10):
        radius, angle = (1.0, 0.45)[corner % 2], math.pi * corner / 5
        corners.append((radius * math.sin(angle), 0.06 - radius * math.cos(angle)))
    pen.polygon(corners, color, body=True)


def _draw_boat(pen: _Pen, color: Rgb) -> None:
    pen.line([(0.0, 0.4), (0.0, -0.98)], _TRUNK, 0.06)
    pen.polygon([(0.1, -0.9), (0.1, 0.2), (0.8, 0.2)], _WHITE)
    pen.polygon([(-0.1, -0.75), (-0.1, 0.2), (-0.7, 0.2)], _WHITE)
    pen.polygon([(-1.0, 0.3), (1.0, 0.3), (0.66, 0.88), (-0.66, 0.88)], color, body=True)


def _draw_flower(pen: _Pen, color: Rgb) -> None:
    pen.line([(0.0, 0.0), (0.0, 1.0)], _STEM, 0.1)
    pen.polygon([(0.05, 0.8), (0.5, 0.42), (0.62, 0.7)], _STEM)
    for petal in range(6):
        angle = math.pi * petal / 3
        pen.ellipse(0.44 * math.sin(angle), -0.32 - 0.44 * math.cos(angle), 0.27, 0.27, color, body=True)
    pen.ellipse(0.0, -0.32, 0.26, 0.26, color, body=True)
    pen.over(_ellipse(0.0, -0.32, 0.2, 0.2), _INK)


def _draw_umbrella(pen: _Pen, color: Rgb) -> None:
    pen.line([(0.0, -0.1), (0.0, 0.8), (0.1, 0.92), (0.24, 0.92), (0.32, 0.78)], _INK, 0.07)
    arc = [(0.98 * math.cos(math.pi * k / 16), 0.04 - 0.94 * math.sin(math.pi * k / 16)) for k in range(17)]
    pen.polygon([*arc, (-0.65, -0.1), (-0.33, 0.06), (0.0, -0.1), (0.33, 0.06), (0.65, -0.1)], color, body=True)


def _draw_cat(pen: _Pen, color: Rgb) -> None:
    pen.line([(0.45, 0.75), (0.85, 0.7), (0.9, 0.25)], color, 0.14)
    pen.ellipse(0.0, 0.6, 0.5, 0.4, color, body=True)
    for side in (-1, 1):
        pen.polygon([(side * 0.62, -0.98), (side * 0.6, -0.3), (side * 0.1, -0.62)], color)
    pen.ellipse(0.0, -0.25, 0.66, 0.5, color)
    for x in (-0.27, 0.27):
        pen.eye(x, -0.3, 0.14)
    pen.over([(-0.1, -0.08), (0.1, -0.08), (0.0, 0.05)], _INK)


def _darker(color: Rgb) -> Rgb:
    return (color[0] * 7 // 10, color[1] * 7 // 10, color[2] * 7 // 10)


_THINGS = {
    "mug": _draw_mug, "duck": _draw_duck, "car": _draw_car, "tree": _draw_tree,
    "house": _draw_house, "fish": _draw_fish, "star": _draw_star, "boat": _draw_boat, "flower": _draw_flower,
    "umbrella": _draw_umbrella, "cat": _draw_cat,
}  # fmt: skip


# ---- the backgrounds ----------------------------------------------------------------------------------------


def _split(side: int, above: Rgb, below: Rgb, rng: np.random.Generator) -> Image.Image:
    """Sky and ground, the horizon at 0.58 to 0.68 of the height."""
    canvas = Image.new("RGB", (side, side), _shaded(above, rng, 6))
    ground = (0, round(side * float(rng.uniform(0.58, 0.68))), side, side)
    ImageDraw.Draw(canvas).rectangle(ground, fill=_shaded(below, rng, 6))
    return canvas


def _grass(side: int, rng: np.random.Generator) -> Image.Image:
    return _split(side, (176, 222, 252), (122, 200, 92), rng)


def _beach(side: int, rng: np.random.Generator) -> Image.Image:
    canvas = _split(side, (120, 190, 246), (244, 222, 160), rng)
    top = round(side * float(rng.uniform(0.4, 0.46)))
    ImageDraw.Draw(canvas).rectangle((0, top, side, round(side * 0.6)), fill=_shaded((44, 120, 200), rng, 6))
    return canvas


def _night(side: int, rng: np.random.Generator) -> Image.Image:
    canvas = _split(side, (34, 40, 104), (66, 68, 116), rng)
    draw = ImageDraw.Draw(canvas)
    x, y, r = side * float(rng.uniform(0.08, 0.92)), side * float(rng.uniform(0.06, 0.16)), side * 0.07
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(246, 240, 200))
    return canvas


def _brick(side: int, rng: np.random.Generator) -> Image.Image:
    canvas = Image.new("RGB", (side, side), _shaded((190, 116, 96), rng, 6))
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
    return Image.new("RGB", (side, side), _shaded((204, 200, 190), rng, 8))


_BACKDROPS = {"grass": _grass, "beach": _beach, "night": _night, "brick": _brick, "snow": _snow, "plain": _plain}
