"""The order of pictures."""

from __future__ import annotations

from collections import Counter

import pytest

from remote_trainer.dataset.order import BatchOrder

BUCKETS = ["square"] * 5 + ["tall"] * 3 + ["wide"]


def order(batch_size: int = 2, seed: int = 42, label: str = "instance") -> BatchOrder:
    return BatchOrder(BUCKETS, batch_size, seed, label)


def test_a_batch_is_a_function_of_its_position_alone():
    straight, jumping = order(), order()
    batches = [straight.batch(position) for position in range(60)]
    assert [jumping.batch(position) for position in reversed(range(60))] == batches[::-1]


def test_all_pictures_of_a_batch_share_a_bucket():
    for position in range(60):
        assert len({BUCKETS[picture] for picture in order().batch(position)}) == 1


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7])
def test_after_every_round_each_picture_was_seen_equally_often(batch_size):
    batches = order(batch_size)
    for round_number in range(4):
        positions = range(round_number * len(BUCKETS), (round_number + 1) * len(BUCKETS))
        seen = Counter(picture for position in positions for picture in batches.batch(position))
        assert seen == dict.fromkeys(range(len(BUCKETS)), batch_size)


def test_a_bucket_smaller_than_the_batch_still_fills_it():
    assert BatchOrder(["only"], 3, 42, "instance").batch(0) == [0, 0, 0]


@pytest.mark.parametrize("other", [{"seed": 43}, {"label": "class"}])
def test_seed_and_set_each_have_an_order_of_their_own(other):
    assert [order().batch(k) for k in range(18)] != [order(**other).batch(k) for k in range(18)]


def test_passes_are_shuffled_anew():
    batches = BatchOrder(["one"] * 8, 8, 42, "instance")
    assert batches.batch(0) != batches.batch(1)
    assert sorted(batches.batch(0)) == sorted(batches.batch(1))
