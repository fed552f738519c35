"""Whose turn it is among several sets of pictures."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from remote_trainer.dataset.mixture import Mixture, Share, share_of
from remote_trainer.wire import DatasetSpec

SUBJECT = Share(20, 1.0, holds_epoch=True)
ENDLESS = Share(None, 1.0, holds_epoch=False)


def mixture(*shares: Share, seed: int = 42) -> Mixture:
    return Mixture(shares, seed, "mixed")


def owners(of: Mixture, count: int, first: int = 0) -> list[int]:
    return [of.turn(position)[0] for position in range(first, first + count)]


def test_a_turn_is_a_function_of_its_position_alone():
    straight, jumping = mixture(SUBJECT, ENDLESS), mixture(SUBJECT, ENDLESS)
    turns = [straight.turn(position) for position in range(300)]
    assert [jumping.turn(position) for position in reversed(range(300))] == turns[::-1]


def test_a_set_by_itself_has_every_turn():
    assert [mixture(SUBJECT).turn(position) for position in (0, 7, 10_000)] == [(0, 0), (0, 7), (0, 10_000)]


def test_each_set_counts_its_own_turns():
    turns = [mixture(SUBJECT, ENDLESS, SUBJECT).turn(position) for position in range(200)]
    for member in range(3):
        assert [earlier for owner, earlier in turns if owner == member] == list(range(owners_of(turns)[member]))


def owners_of(turns: list[tuple[int, int]]) -> Counter[int]:
    return Counter(owner for owner, _ in turns)


def test_equal_shares_mix_evenly_whatever_the_sizes():
    seen = Counter(owners(mixture(Share(20, 1.0, True), Share(2200, 1.0, False)), 4000))
    assert seen[0] == pytest.approx(2000, rel=0.05)


def test_a_set_is_drawn_by_its_probability():
    seen = Counter(owners(mixture(ENDLESS, Share(None, 3.0, holds_epoch=False)), 8000))
    assert seen[1] == pytest.approx(6000, rel=0.05)


def test_in_an_epoch_every_set_that_holds_it_has_exactly_its_turns():
    small, large = Share(3, 1.0, holds_epoch=True), Share(17, 1.0, holds_epoch=True)
    turns = owners(mixture(small, large), 5 * 20)
    for epoch in range(5):
        assert Counter(turns[20 * epoch : 20 * (epoch + 1)]) == {0: 3, 1: 17}


def test_a_set_that_ignores_epochs_does_not_hold_one_open():
    """Ten turns of the holder end an epoch, so a huge ignoring set gets about as many and never the rest of its own."""
    turns = owners(mixture(Share(10, 1.0, True), Share(100_000, 1.0, False)), 1000)
    holder_turns = [position for position, owner in enumerate(turns) if owner == 0]
    assert max(late - early for early, late in pairwise(holder_turns)) < 30


def test_a_set_that_ignores_epochs_runs_dry_within_one():
    dry = owners(mixture(Share(1000, 1.0, True), Share(5, 1.0, False)), 1005)
    assert Counter(dry) == {0: 1000, 1: 5}
    assert 1 not in dry[200:]


def test_where_all_ignore_epochs_all_hold_them():
    turns = owners(mixture(Share(2, 1.0, False), Share(3, 1.0, False)), 10)
    assert Counter(turns[:5]) == Counter(turns[5:]) == {0: 2, 1: 3}


def test_seeds_and_epochs_differ():
    shares = (Share(8, 1.0, True), Share(8, 1.0, True))
    first = owners(mixture(*shares), 16)
    assert first != owners(mixture(*shares), 16, first=16)
    assert first != owners(mixture(*shares, seed=43), 16)


@pytest.mark.parametrize(("repeats", "batch_size", "turns"), [(0, 1, 10), (1, 1, 20), (10, 4, 28), (None, 1, None)])
def test_repeats_are_passes_beyond_the_first(repeats, batch_size, turns):
    spec = DatasetSpec("dog", "instance", "data/dog", "a dog", repeats=repeats)
    assert share_of(spec, 10, batch_size).turns == turns
