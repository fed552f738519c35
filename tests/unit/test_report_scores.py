"""Scores that somebody's judge has put beside a run's pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.report.collect import collect
from orchestrator.report.contents import Judgement, Report, Score
from orchestrator.report.pictures import PictureBook
from orchestrator.report.render import render
from orchestrator.report.scores import read_judgement
from tests.unit.recorded_run import RecordedRun

TOLD = [
    {"name": "it is the <b>dog</b>", "step": 0, "value": 0.0, "low": 0.0, "high": 0.14, "n": 24},
    {"name": "it is the <b>dog</b>", "step": 400, "value": 0.96, "low": 0.8, "high": 0.99, "n": 24},
    {"name": "diversity", "step": 400, "value": 0.5, "low": 0.4, "high": 0.6, "n": 8},
]


def written(folder: Path, content: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(content))
    return folder


def test_they_are_read_as_they_stand(tmp_path: Path) -> None:
    found = read_judgement(written(tmp_path, {"judge": "a friend", "scores": TOLD}))
    assert found == Judgement("a friend", tuple(Score(**each) for each in TOLD))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [
        [], {}, {"judge": "x"}, {"judge": "x", "scores": []}, {"judge": "x", "scores": [1]},
        {"judge": "x", "scores": [{**TOLD[0], "value": "much"}]}, {"judge": "x", "scores": [{**TOLD[0], "low": None}]},
        {"judge": "x", "scores": [{**TOLD[0], "high": float("nan")}]},
    ],
)  # fmt: skip
def test_a_file_that_says_something_else_is_left_out(tmp_path: Path, content: object) -> None:
    assert read_judgement(written(tmp_path, content)) is None


def test_most_runs_have_none(tmp_path: Path) -> None:
    assert read_judgement(tmp_path) is None


def test_the_report_shows_them_by_step_as_text(tmp_path: Path) -> None:
    recorded = RecordedRun(tmp_path)
    recorded.begin()
    report = _report(recorded)
    assert report.judgement is None
    assert "Scores" not in render(report, {})
    written(recorded.run_home.root / "validation", {"judge": "a friend", "scores": TOLD})
    report = _report(recorded)
    page = render(report, PictureBook().inline(report))
    assert '<a href="#scores">Scores</a>' in page
    assert "it is the &lt;b&gt;dog&lt;/b&gt;" in page
    assert "0.96 <small>(0.80 to 0.99, n = 24)</small>" in page
    assert page.count("it is the &lt;b&gt;") == 1, "one row for both steps"


def _report(recorded: RecordedRun) -> Report:
    return collect(recorded.ledger, recorded.run_home, recorded.name, recorded.clock.now())
