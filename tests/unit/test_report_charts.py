from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ranges import Range
from orchestrator.report.charts import (
    NARROW_PX,
    WIDE_PX,
    Line,
    active_s,
    budget_bar,
    line_chart,
    smoothed,
    thinned,
    ticks,
    timeline,
)
from orchestrator.report.contents import MachineEntry, StateSpan


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def test_ticks_are_round_and_enclose_the_values() -> None:
    assert ticks(0, 0.71, 4) == [0, 0.2, 0.4, 0.6, 0.8]
    assert ticks(10, 400, 4) == [0, 100, 200, 300, 400]


@given(low=st.integers(0, 100_000), extent=st.integers(1, 100_000), count=st.integers(2, 8))
def test_ticks_enclose_any_steps_and_are_few(low: int, extent: int, count: int) -> None:
    found = ticks(low, low + extent, count)
    assert found[0] <= low < low + extent <= found[-1]
    assert len(found) <= count + 2


def test_a_chart_has_a_polyline_for_each_line_and_says_what_it_is() -> None:
    svg = drawn(line_chart([Line(((0, 1), (10, 0)), "raw"), Line(((0, 1), (10, 1)), "smooth")], 'Loss <by> "step"'))
    assert svg.get("aria-label") == 'Loss <by> "step"'
    assert [line.get("class") for line in svg.iter("polyline")] == ["line raw", "line smooth"]


def test_the_higher_value_stands_higher_and_the_later_step_further_right() -> None:
    svg = drawn(line_chart([Line(((0, 1), (10, 0.5)), "raw")], "loss"))
    [line] = svg.iter("polyline")
    (x1, y1), (x2, y2) = [tuple(map(float, pair.split(","))) for pair in str(line.get("points")).split()]
    assert x1 < x2
    assert y1 < y2, "y grows downwards"


@pytest.mark.parametrize("width", [WIDE_PX, NARROW_PX])
def test_everything_stays_inside_the_drawing(width: int) -> None:
    svg = drawn(line_chart([Line(tuple((float(x), x % 7 / 7) for x in range(0, 2000, 10)), "raw")], "loss", width))
    [line] = svg.iter("polyline")
    xs = [float(pair.split(",")[0]) for pair in str(line.get("points")).split()]
    assert 0 <= min(xs) <= max(xs) <= width


def test_a_single_point_is_marked_since_it_makes_no_line() -> None:
    assert len(list(drawn(line_chart([Line(((5, 0.3),), "raw")], "loss")).iter("circle"))) == 1


def test_without_a_point_there_is_no_chart() -> None:
    assert line_chart([Line((), "raw")], "loss") == ""


def test_smoothing_leaves_a_constant_as_it_is_and_follows_a_step_by_half_in_a_half_life() -> None:
    assert smoothed([(0, 2.0), (10, 2.0), (50, 2.0)], 10)[-1] == (50, 2.0)
    long_at_zero = [(float(x), 0.0) for x in range(1000)]
    after = smoothed([*long_at_zero, *((1000.0 + x, 1.0) for x in range(10))], 10)
    assert after[-1][1] == pytest.approx(0.5, abs=0.01)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60))
def test_thinning_keeps_the_extremes_and_the_order(values: list[float]) -> None:
    points = [(float(index), value) for index, value in enumerate(values)]
    kept = thinned(points, 10)
    assert len(kept) <= 10
    assert {min(values), max(values)} <= {y for _, y in kept}
    assert list(kept) == sorted(kept)


SPANS = (
    StateSpan("training", 1, 100.0, 200.0, "", False),
    StateSpan("recovering", 1, 200.0, 210.0, "", True),
    StateSpan("training", 2, 5000.0, 5090.0, "", False),
)


def test_time_between_attempts_does_not_count() -> None:
    assert active_s(SPANS, 50) == 0
    assert active_s(SPANS, 150) == 50
    assert active_s(SPANS, 3000) == 110
    assert active_s(SPANS, 9000) == 200


def test_a_timeline_shows_states_by_length_and_marks_interruptions() -> None:
    machine = MachineEntry("tag", 1, "vast", "<GPU>", "spot", 0.2, 100.0, 210.0, "", 0.0, False)
    svg = drawn(timeline(SPANS, [machine], WIDE_PX))
    widths = [float(str(r.get("width"))) for r in svg.iter("rect") if "state" in str(r.get("class"))]
    assert widths == pytest.approx([WIDE_PX * 0.5, WIDE_PX * 0.05, WIDE_PX * 0.45], abs=0.1)
    assert len(list(svg.iter("path"))) == 1
    assert [text.text for text in svg.iter("text")] == ["vast <GPU>"]


def test_a_run_that_has_not_lasted_has_no_timeline() -> None:
    assert timeline((), []) == ""


@pytest.mark.parametrize("spent_usd", [0.0, 0.3, 5.0])
def test_a_budget_bar_stays_inside_whatever_was_spent(spent_usd: float) -> None:
    svg = drawn(budget_bar(spent_usd, Range(0.2, 0.3, 0.5), 2.0))
    [spent] = [rect for rect in svg.iter("rect") if rect.get("class") == "spent"]
    assert float(str(spent.get("width"))) <= WIDE_PX
