"""A `Report` as one HTML file that needs nothing else: no network, no font, no script but its own. Pure.

Prompts, captions, names and everything a host has said are foreign text. jinja2 escapes all of it; besides, the page
carries a Content-Security-Policy that lets run only the script and the style whose hashes it states, so that what
slipped through would be dead.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from orchestrator.ranges import duration, usd
from orchestrator.report import charts
from orchestrator.report.contents import Report, Score
from orchestrator.report.pictures import MAX_PHOTOS, InlinePicture, shown_samples

MAX_TABLE_ROWS = 60
"""Of the values below a chart, which a screen reader goes through."""


def render(report: Report, pictures: Mapping[str, InlinePicture], reload_s: float | None = None) -> str:
    """The page. `pictures` by path: one that is not in it is not shown. With `reload_s` the page loads itself anew
    every so many seconds, until a version without it is there.
    """
    style, script = _read("page.css"), _read("page.js")
    samples = [
        (series.prompt, [(sample.step, pictures[sample.path]) for sample in series.samples if sample.path in pictures])
        for series in shown_samples(report)
    ]
    photos = [(photo, pictures[photo.path]) for photo in report.photos[:MAX_PHOTOS] if photo.path in pictures]
    return _template().render(
        report=report,
        reload_s=reload_s,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        headline=headline(report),
        outcome=outcome(report),
        samples=[(prompt, frames) for prompt, frames in samples if frames],
        samples_left_out=sum(len(s.samples) for s in report.samples) - sum(len(frames) for _, frames in samples),
        score_steps=sorted({score.step for score in report.judgement.scores}) if report.judgement else [],
        score_rows=_score_rows(report),
        photos=photos,
        photos_left_out=len(report.photos) - len(photos),
        loss_chart=_loss_chart(report),
        lr_chart=_lr_chart(report),
        timeline=_both([charts.timeline(report.spans, report.machines, width) for width in _WIDTHS]),
        budget_bar=_budget_bar(report),
        share_bar=lambda share: Markup(charts.share_bar(share)),
    )


def outcome(report: Report) -> tuple[str, str]:
    """(look, word): how the run stands, in one word or two."""
    if not report.has_ended:
        return "running", report.state
    looks = {"done": "good", "stopped": "fair", "canceled": "fair"}
    return looks.get(report.reason or "", "bad"), (report.reason or "ended").replace("-", " ")


def headline(report: Report) -> str:
    """What a person wants to know first, as a sentence."""
    steps = f"{report.step} of {report.of} steps" if report.of else "no step yet"
    cost = f"cost {usd(report.money.spent_usd)}"
    if report.has_ended:
        return f"{steps} in {duration(report.active_s)}, {cost}."
    left = f", {duration(report.eta_s)} of training left" if report.eta_s else ""
    return f"{steps} after {duration(report.active_s)}{left}; {cost} so far."


def _score_rows(report: Report) -> list[tuple[str, dict[int, Score]]]:
    """Of each name the scores by step; names in the order in which they were first told."""
    rows: dict[str, dict[int, Score]] = {}
    for score in report.judgement.scores if report.judgement else ():
        rows.setdefault(score.name, {})[score.step] = score
    return list(rows.items())


# ---- charts --------------------------------------------------------------------------------------------------------

_WIDTHS = (charts.WIDE_PX, charts.NARROW_PX)


def _both(drawings: Sequence[str]) -> Markup:
    return Markup("".join(drawings))


class Chart:
    """A drawing in both widths, with its values as texts: `readings` for the slider, `rows` for a table."""

    def __init__(
        self, lines: Sequence[charts.Line], name: str, columns: tuple[str, ...], rows: list[list[str]]
    ) -> None:
        self.svg = _both([charts.line_chart(lines, name, width) for width in _WIDTHS])
        self.name, self.columns = name, columns
        kept = _spread_rows(rows, charts.MAX_POINTS)
        self.readings = json.dumps([[float(row[0]), _reading(columns, row)] for row in kept])
        self.count = len(kept)
        self.last = _reading(columns, rows[-1])
        self.rows = _spread_rows(rows, MAX_TABLE_ROWS)


def _loss_chart(report: Report) -> Chart | None:
    if not report.steps and not report.losses:
        return None
    raw = tuple((float(point.step), point.loss) for point in report.steps)
    half_life = max(1.0, (raw[-1][0] - raw[0][0]) / 20) if raw else 1.0
    smooth = charts.smoothed(raw, half_life)
    fixed = tuple((float(look.step), look.loss) for look in report.losses)
    lines = [charts.Line(raw, "raw"), charts.Line(smooth, "smooth"), charts.Line(fixed, "fixed", marks=True)]
    by_step = {step: ["", "", ""] for step, _ in (*raw, *fixed)}
    for column, points in enumerate((raw, smooth, fixed)):
        for step, value in points:
            by_step[step][column] = f"{value:.4f}"
    rows = [[f"{step:g}", *values] for step, values in sorted(by_step.items())]
    return Chart(
        [line for line in lines if line.points], "Loss by step", ("step", "loss", "smoothed", "fixed set"), rows
    )


def _lr_chart(report: Report) -> Chart | None:
    if not report.steps:
        return None
    points = tuple((float(point.step), point.lr) for point in report.steps)
    rows = [[f"{step:g}", f"{rate:.3g}"] for step, rate in points]
    return Chart([charts.Line(points, "smooth")], "Learning rate by step", ("step", "learning rate"), rows)


def _reading(columns: Sequence[str], row: Sequence[str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(columns, row, strict=True) if value)


def _spread_rows(rows: list[list[str]], limit: int) -> list[list[str]]:
    if len(rows) <= limit:
        return rows
    return [rows[round(index * (len(rows) - 1) / (limit - 1))] for index in range(limit)]


def _budget_bar(report: Report) -> Markup | None:
    money = report.money
    if money.quote is None or money.ceiling_usd is None:
        return None
    return _both([charts.budget_bar(money.spent_usd, money.quote, money.ceiling_usd, width) for width in _WIDTHS])


# ---- the template --------------------------------------------------------------------------------------------------


def _policy(style: str, script: str) -> str:
    return (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_source_hash(style)}; script-src {_source_hash(script)}"
    )


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"usd": usd, "duration": duration, "moment": _moment, "volume": _volume, "ticked": _ticked}
    return environment.from_string(_read("page.html"))


@cache
def _read(name: str) -> str:
    return (files("orchestrator.report") / name).read_text("utf-8")


def _ticked(text: str) -> Markup:
    """Escaped, and what stands in backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _moment(at: float) -> str:
    """In the laptop's own time zone, where the page is read."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _volume(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
