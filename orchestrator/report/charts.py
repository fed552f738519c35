"""Charts as SVG text. Pure: equal values give equal pictures; colors and fonts are the style sheet's.

Everything is drawn twice, wide and narrow, and the style sheet shows the one that fits: a drawing that is scaled down
to a phone would take its letters with it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from orchestrator.ranges import Range
from orchestrator.report.contents import MachineEntry, StateSpan

Point = tuple[float, float]

WIDE_PX, NARROW_PX = 880, 340
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 58, 12, 10, 30
MAX_POINTS = 400
"""Of one line: more cannot be told apart on a screen."""


@dataclass(frozen=True)
class Line:
    points: tuple[Point, ...]
    look: str
    """A class of the style sheet."""
    marks: bool = False
    """A dot at every point."""


def line_chart(lines: Sequence[Line], name: str, width: int = WIDE_PX, height: int = 240) -> str:
    """`lines` over a common step axis, the value axis beginning at 0. Empty text without any point."""
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    high = high if high > low else low + 1
    values = ticks(0.0, max(max(y for _, y in points), 1e-12), 4)
    inner_width, inner_height = width - LEFT_PX - RIGHT_PX, height - TOP_PX - BOTTOM_PX

    def x_of(step: float) -> float:
        return LEFT_PX + (step - low) / (high - low) * inner_width

    def y_of(value: float) -> float:
        return TOP_PX + inner_height * (1 - value / values[-1])

    parts = [
        f'<svg class="{_size(width)}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}" '
        f'data-low="{low:g}" data-high="{high:g}" data-left="{LEFT_PX}" data-width="{inner_width}">'
    ]
    for value in values:
        y = y_of(value)
        parts.append(f'<line class="grid" x1="{LEFT_PX}" x2="{width - RIGHT_PX}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT_PX - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for step in (tick for tick in ticks(low, high, 6 if width == WIDE_PX else 3) if low <= tick <= high):
        parts.append(f'<text x="{x_of(step):.1f}" y="{height - 8}" text-anchor="middle">{step:g}</text>')
    for line in lines:
        path = [(x_of(x), y_of(y)) for x, y in thinned(line.points, MAX_POINTS)]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in path)
        parts.append(f'<polyline class="line {line.look}" points="{drawn}"/>')
        if line.marks or len(path) == 1:
            parts += [f'<circle class="mark {line.look}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in path]
    parts.append(f'<line class="cursor" x1="0" x2="0" y1="{TOP_PX}" y2="{height - BOTTOM_PX}" visibility="hidden"/>')
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers, about `count` apart evenly, from at or below `low` to at or above `high` > `low`."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def smoothed(points: Sequence[Point], half_life: float) -> tuple[Point, ...]:
    """A running mean in which a point's weight halves every `half_life` on the x axis; the first point weighs no more
    than others, so that the curve begins without a bias.
    """
    curve, mean, weight, before = list[Point](), 0.0, 0.0, points[0][0] if points else 0.0
    for x, y in points:
        kept = 0.5 ** ((x - before) / half_life)
        mean, weight, before = mean * kept + y, weight * kept + 1.0, x
        curve.append((x, mean / weight))
    return tuple(curve)


def thinned(points: Sequence[Point], limit: int) -> tuple[Point, ...]:
    """At most `limit` points: of each stretch its lowest and highest, so that no spike is lost."""
    if len(points) <= limit:
        return tuple(points)
    stretches = limit // 2
    kept = list[Point]()
    for index in range(stretches):
        stretch = points[index * len(points) // stretches : (index + 1) * len(points) // stretches]
        extremes = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(extremes)
    return tuple(kept)


# ---- where the time went -------------------------------------------------------------------------------------------

ROW_PX, ROW_GAP_PX = 26, 8


def timeline(spans: Sequence[StateSpan], machines: Sequence[MachineEntry], width: int = WIDE_PX) -> str:
    """States in the first row, below it a row for each machine. Times between attempts are left out.

    Empty text for a run that has not lasted.
    """
    whole_s = sum(span.seconds for span in spans)
    if whole_s <= 0:
        return ""
    height = (ROW_PX + ROW_GAP_PX) * (1 + len(machines)) + 10

    def x_of(seconds: float) -> float:
        return seconds / whole_s * width

    parts = [
        f'<svg class="{_size(width)}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Timeline of states and machines; the table below has every time">'
    ]
    for start_s, span in zip(itertools.accumulate((s.seconds for s in spans), initial=0.0), spans, strict=False):
        x, wide = x_of(start_s), max(x_of(span.seconds), 1.0)
        parts.append(f'<rect class="state {span.state}" x="{x:.1f}" y="0" width="{wide:.1f}" height="{ROW_PX}"/>')
        if span.is_interruption:
            parts.append(f'<path class="interruption" d="M{x:.1f} {ROW_PX + 1} l-5 7 h10 z"/>')
    for row, machine in enumerate(machines, start=1):
        y = row * (ROW_PX + ROW_GAP_PX) + ROW_GAP_PX
        end = spans[-1].end if machine.until is None else machine.until
        x, x_end = x_of(active_s(spans, machine.since)), x_of(active_s(spans, end))
        label = f"{machine.provider} {machine.gpu}".strip()
        parts.append(f'<rect class="machine" x="{x:.1f}" y="{y}" width="{max(x_end - x, 2.0):.1f}" height="6"/>')
        anchor, at = ("end", min(x_end, width)) if x > width * 0.6 else ("start", x)
        parts.append(f'<text x="{at:.1f}" y="{y + 20}" text-anchor="{anchor}">{escape(label)}</text>')
    return "".join([*parts, "</svg>"])


def active_s(spans: Sequence[StateSpan], at: float) -> float:
    """Seconds that the run has lasted until the moment `at`, without the times between its attempts."""
    return sum(min(max(at - span.start, 0.0), span.seconds) for span in spans)


# ---- where the money went ------------------------------------------------------------------------------------------


def budget_bar(spent_usd: float, quote: Range, ceiling_usd: float, width: int = WIDE_PX) -> str:
    """What was spent, over the range that was quoted, up to the ceiling."""
    most = max(spent_usd, quote.high, ceiling_usd, 1e-9)

    def x_of(usd: float) -> float:
        return usd / most * (width - 4)

    low, high = x_of(quote.low), x_of(quote.high)
    return (
        f'<svg class="{_size(width)}" viewBox="0 0 {width} 44" role="img" '
        f'aria-label="Spent {spent_usd:.2f} dollars; quoted {quote.low:.2f} to {quote.high:.2f}; '
        f'ceiling {ceiling_usd:.2f}">'
        f'<rect class="track" x="0" y="12" width="{width}" height="20" rx="4"/>'
        f'<rect class="quote" x="{low:.1f}" y="6" width="{max(high - low, 2.0):.1f}" height="32" rx="3"/>'
        f'<rect class="spent" x="0" y="16" width="{max(x_of(spent_usd), 2.0):.1f}" height="12" rx="3"/>'
        f'<line class="expected" x1="{x_of(quote.expected):.1f}" x2="{x_of(quote.expected):.1f}" y1="6" y2="38"/>'
        f'<line class="ceiling" x1="{x_of(ceiling_usd) + 2:.1f}" x2="{x_of(ceiling_usd) + 2:.1f}" y1="0" y2="44"/>'
        "</svg>"
    )


def share_bar(share: float) -> str:
    """A part of a whole, between 0 and 1, beside a number that says the same."""
    filled = min(max(share, 0.0), 1.0) * 120
    return (
        '<svg class="share" viewBox="0 0 120 10" aria-hidden="true">'
        '<rect class="track" width="120" height="10" rx="3"/>'
        f'<rect class="spent" width="{filled:.1f}" height="10" rx="3"/></svg>'
    )


def _size(width: int) -> str:
    return "narrow" if width == NARROW_PX else "wide"
