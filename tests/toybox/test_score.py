from __future__ import annotations

from pathlib import Path

import pytest

import judge
import score
from orchestrator.report.scores import read_judgement
from questions import Counts


@pytest.fixture
def counts() -> Counts:
    return Counts(
        subject=judge.Share(12, 12), unseen=judge.Share(3, 4), place=judge.Share(12, 12), drift=judge.Share(2, 12),
        placed_drift=judge.Share(1, 6), color=judge.Share(8, 8), kinds=judge.Share(11, 11), diversity=0.5,
        diversity_error=0.1,
    )  # fmt: skip


def test_the_report_reads_what_the_judge_writes(counts: Counts, tmp_path: Path) -> None:
    (tmp_path / "validation").mkdir()
    score.write(score.scores(counts, 200), tmp_path)
    found = read_judgement(tmp_path / "validation")
    assert found is not None
    assert {each.step for each in found.scores} == {200}
    assert (found.scores[1].value, found.scores[1].n) == (0.75, 4)


def test_a_robot_that_has_become_the_subject_lowers_the_fidelity_of_the_class(counts: Counts) -> None:
    [told] = [each for each in score.scores(counts, 0) if str(each["name"]).startswith("class fidelity: any other")]
    assert (told["value"], told["n"]) == (pytest.approx(15 / 18), 18)


def test_diversity_has_the_interval_of_its_own_error(counts: Counts) -> None:
    [told] = [each for each in score.scores(counts, 0) if str(each["name"]).startswith("diversity")]
    assert (told["low"], told["high"], told["n"]) == (pytest.approx(0.304), pytest.approx(0.696), 4)
