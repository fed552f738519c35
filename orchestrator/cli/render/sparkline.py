"""A curve in one line of text, and a bar. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

LEVELS, ASCII_LEVELS = "▁▂▃▄▅▆▇█", "_.-=+*#@"


def sparkline(values: Sequence[float], cells: int, *, ascii_only: bool = False) -> str:
    """At most `cells` characters; where there are more values, each is the mean of its share. Equal values lie low."""
    if not values or cells < 1:
        return ""
    count = min(cells, len(values))
    edges = [round(index * len(values) / count) for index in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    levels = ASCII_LEVELS if ascii_only else LEVELS
    top = len(levels) - 1
    return "".join(levels[round((mean - low) / (high - low) * top) if high > low else 0] for mean in means)


def bar(share: float, cells: int, *, ascii_only: bool = False) -> str:
    """`share` of 0…1 as `cells` characters."""
    full, empty = ("#", ".") if ascii_only else ("━", "╌")
    done = max(0, min(cells, round(share * cells)))
    return full * done + empty * (cells - done)
