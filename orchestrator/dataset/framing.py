"""How close the camera came: what a person's photos should be made of, and what they are, by their names. Pure.

The numbers are those that people who train faces settled on: 2–3 of the whole body, 3–5 of the upper body, 5–12
close-ups of the face. Names say which is which, and where they do not, the height of the face does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Framing(Enum):
    FULL_BODY = "full body"
    UPPER_BODY = "upper body"
    CLOSE_UP = "close-up"


PERSON = {Framing.FULL_BODY: (2, 3), Framing.UPPER_BODY: (3, 5), Framing.CLOSE_UP: (5, 12)}
"""Framing → (at least, at most) photos."""

PERSON_WORDS = frozenset(
    {"person", "people", "man", "men", "woman", "women", "boy", "girl", "child", "kid", "baby", "lady", "guy", "human"}
)
_NAMES: tuple[tuple[Framing, frozenset[str]], ...] = (
    (Framing.FULL_BODY, frozenset({"full", "fullbody", "whole", "body", "standing"})),
    (Framing.UPPER_BODY, frozenset({"upper", "upperbody", "half", "halfbody", "torso", "bust", "waist", "medium"})),
    (Framing.CLOSE_UP, frozenset({"close", "closeup", "closeups", "face", "faces", "head", "headshot", "portrait"})),
)
_ORDER = (Framing.UPPER_BODY, Framing.CLOSE_UP, Framing.FULL_BODY)
"""`upper-body` holds a word of the full body, too."""


CLOSE_FACE, UPPER_FACE = 0.3, 0.115
"""Least shares of the picture's height that a face (brow to chin, two thirds of a head) has in a close-up and in a
picture of the upper body: two heads from the crown to the shoulders, five and a half to the knees."""


@dataclass(frozen=True)
class FramingRow:
    framing: Framing
    found: int
    at_least: int
    at_most: int

    @property
    def missing(self) -> int:
        return max(0, self.at_least - self.found)


@dataclass(frozen=True)
class FramingTable:
    rows: tuple[FramingRow, ...]
    unnamed: int
    """Photos that neither a name nor a face tells of."""

    @property
    def is_complete(self) -> bool:
        return not any(row.missing for row in self.rows)


def framing_of(path: Path, folder: Path) -> Framing | None:
    """By the words of the file's name and of the subfolder it lies in: `close-1.jpg`, `upper body/3.jpg`."""
    below = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
    words = set(re.findall(r"[a-z]+", str(below.with_suffix("")).lower()))
    known = dict(_NAMES)
    return next((framing for framing in _ORDER if words & known[framing]), None)


def framing_by_face(height: float) -> Framing:
    """`height`: of the face, as a share of the picture's."""
    if height >= CLOSE_FACE:
        return Framing.CLOSE_UP
    return Framing.UPPER_BODY if height >= UPPER_FACE else Framing.FULL_BODY


def is_framing_folder(name: str) -> bool:
    """Whether a subfolder is named for a framing, so that its photos belong to the set."""
    return framing_of(Path(name) / "photo", Path()) is not None


def framing_table(framings: Sequence[Framing | None]) -> FramingTable:
    """What is there of what a person's photos should be made of."""
    rows = tuple(FramingRow(kind, framings.count(kind), *wanted) for kind, wanted in PERSON.items())
    return FramingTable(rows, framings.count(None))


def shows_a_person(prompt: str | None) -> bool:
    """Whether the words of a prompt speak of one."""
    return prompt is not None and bool(PERSON_WORDS & set(re.findall(r"[a-z]+", prompt.lower())))
