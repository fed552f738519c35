"""What of a run a tracker has been given, so that nobody gives it twice: whoever logs the run next goes on from there.

It is written before the tracker gets anything. Killed in between, a process leaves a gap of what it had just read; a
point that stands twice in a curve would be there for good.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.curves import Point
from orchestrator.whole_file import write_atomically


@dataclass(frozen=True)
class Cursor:
    steps: tuple[tuple[str, int], ...] = ()
    """The highest step given of each name of a value: a run that went back to a checkpoint tells some again."""
    pictures: tuple[str, ...] = ()
    """Paths below the run's folder, as its events name them."""

    def new(self, told: Iterable[Point]) -> tuple[list[Point], Cursor]:
        """Those points that were not given yet, and the cursor after them. Pure."""
        highest, fresh = dict(self.steps), []
        for point in told:
            if values := {name: value for name, value in point.values.items() if point.step > highest.get(name, -1)}:
                fresh.append(replace(point, values=values))
                highest |= dict.fromkeys(values, point.step)
        return fresh, replace(self, steps=tuple(highest.items()))

    def with_picture(self, path: str) -> Cursor:
        return replace(self, pictures=(*self.pictures, path))


def read_cursor(file: Path) -> Cursor:
    """At the beginning where there is none, or none that can be read."""
    try:
        told = json.loads(file.read_bytes())
        return Cursor(tuple((str(k), int(v)) for k, v in told["steps"]), tuple(str(each) for each in told["pictures"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Cursor()


def write_cursor(file: Path, cursor: Cursor) -> None:
    write_atomically(file, json.dumps(dataclasses.asdict(cursor)).encode())
