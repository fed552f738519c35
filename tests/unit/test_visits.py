"""How often sets are expected to be drawn."""

from __future__ import annotations

import pytest

from orchestrator.dataset.visits import Drawn, epoch_length, expected_turns, turns_per_epoch

SUBJECT, HUGE = Drawn(20, 1.0, holds_epoch=True), Drawn(2200, 1.0, holds_epoch=False)


def test_a_set_by_itself_has_every_turn() -> None:
    assert expected_turns([SUBJECT], 1000) == [1000.0]


def test_an_ignoring_set_gets_as_many_turns_as_the_holder_of_the_epoch() -> None:
    assert epoch_length([SUBJECT, HUGE]) == pytest.approx(40)
    assert expected_turns([SUBJECT, HUGE], 1000) == pytest.approx([500, 500])


def test_probabilities_are_shares() -> None:
    assert expected_turns([SUBJECT, Drawn(2200, 3.0, False)], 1000) == pytest.approx([250, 750])


def test_a_set_that_runs_dry_leaves_the_rest_of_the_epoch_to_the_others() -> None:
    assert expected_turns([SUBJECT, Drawn(5, 1.0, False)], 100) == pytest.approx([80, 20])


def test_holders_all_get_their_turns() -> None:
    assert expected_turns([SUBJECT, Drawn(60, 1.0, True)], 160) == pytest.approx([40, 120])


def test_the_beginning_of_an_epoch_is_even() -> None:
    assert expected_turns([SUBJECT, Drawn(60, 1.0, True)], 20) == pytest.approx([10, 10])


def test_nothing_ends_an_epoch_of_endless_sets() -> None:
    endless = Drawn(None, 1.0, holds_epoch=False)
    assert epoch_length([endless, endless]) is None
    assert expected_turns([endless, endless], 10) == pytest.approx([5, 5])


def test_a_last_batch_is_whole() -> None:
    assert [turns_per_epoch(10, 1, size) for size in (1, 3, 40)] == [20, 7, 1]
    assert turns_per_epoch(10, None, 1) is None
