"""A drawn world whose every picture comes with its truth: what is on it, in which color and pattern, and where.

Twelve kinds of things, eight colors, three patterns, six backgrounds. A `Scene` is the truth; `draw` turns it into
64×64 pixels and the mask of the thing; `caption` says in words what the scene holds, and leaves some of it out.
Everything is a function of the seed: the same pictures with the same numpy and Pillow.

The personal subject of the demo and the experiments, a teal robot with two orange stripes and one eye, is drawn by
`subject_scene` alone. `random_scene` never makes it: there is no teal in the palette, stripes are white, and robots
have two eyes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from backdrops import BACKDROPS
from paint import WHITE, Rgb, shaded
from pen import Pattern, Pen, Point
from things import THINGS, draw_robot

Kind = Literal[
    "mug", "robot", "duck", "car", "tree", "house", "fish", "star", "boat", "flower", "umbrella", "cat",
]  # fmt: skip
Color = Literal["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"]
Background = Literal["grass", "beach", "night", "brick", "snow", "plain"]

KINDS: tuple[Kind, ...] = get_args(Kind)
COLORS: tuple[Color, ...] = get_args(Color)
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
BACKGROUNDS: tuple[Background, ...] = get_args(Background)
SIDE = 64
"""Pixels of a picture, each way."""

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
            return replace(scene, look=replace(SUBJECT, body=color, marks=WHITE if color == ORANGE else ORANGE))
        case 1:
            return replace(scene, look=replace(SUBJECT, marks=WHITE if color == ORANGE else color))
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
    canvas = BACKDROPS[scene.background](side, rng)
    pen = Pen(canvas, scene.center, scene.size, scene.tilt_deg, mirrored=scene.mirrored)
    look = scene.look or Look(_RGB[scene.color], WHITE)
    body = shaded(look.body, rng)
    if scene.kind == "robot":
        draw_robot(pen, body, look.eyes)
    else:
        THINGS[scene.kind](pen, body)
    pen.pattern(scene.pattern, look.marks)
    pen.finish()
    pixels = np.asarray(canvas.reduce(_SUPERSAMPLING))
    return Picture(pixels, np.asarray(pen.mask.reduce(_SUPERSAMPLING)))
