"""Which pictures form the k-th micro-batch: a pure function of (seed, k), so that resuming needs only k.

All pictures of a batch share a bucket, since tensors of one batch share a shape. Each bucket has an endless stream:
pass after pass over its pictures, every pass shuffled. Batches are cut from it without regard to the ends of passes,
so no picture is dropped or favored when the bucket's size is no multiple of the batch size. Buckets take turns in
rounds: in one round a bucket of n pictures gives n batches, in shuffled order. After each round every picture of the
set has been seen exactly `batch_size` times.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from functools import lru_cache


class BatchOrder:
    """The order of one set of pictures.

    buckets: one entry for each picture, whatever identifies its size. `label` separates the streams of sets that
    share a seed.
    """

    def __init__(self, buckets: Sequence[Hashable], batch_size: int, seed: int, label: str) -> None:
        members: dict[Hashable, list[int]] = {}
        for picture, bucket in enumerate(buckets):
            members.setdefault(bucket, []).append(picture)
        self._members = list(members.values())
        self._round_length = len(buckets)
        self._batch_size = batch_size
        self._key = f"{label}/{seed}"
        # The newest few suffice: a run moves forward, and a batch touches at most a handful of passes.
        self._round = lru_cache(maxsize=2)(self._make_round)
        self._shuffled_pass = lru_cache(maxsize=4 * len(self._members))(self._make_pass)

    def batch(self, position: int) -> list[int]:
        """Indices of the pictures of micro-batch `position` (0, 1, …), `batch_size` of them."""
        round_number, turn = divmod(position, self._round_length)
        bucket, earlier = self._round(round_number)[turn]
        members = self._members[bucket]
        first = (round_number * len(members) + earlier) * self._batch_size
        return [self._stream(bucket, first + offset) for offset in range(self._batch_size)]

    def _stream(self, bucket: int, index: int) -> int:
        pass_number, place = divmod(index, len(self._members[bucket]))
        return self._shuffled_pass(bucket, pass_number)[place]

    def _make_round(self, round_number: int) -> list[tuple[int, int]]:
        """For each turn: the bucket, and how many turns it has had before in this round."""
        turns = [bucket for bucket, members in enumerate(self._members) for _ in members]
        random.Random(f"{self._key}/round/{round_number}").shuffle(turns)
        had = [0] * len(self._members)
        result = []
        for bucket in turns:
            result.append((bucket, had[bucket]))
            had[bucket] += 1
        return result

    def _make_pass(self, bucket: int, pass_number: int) -> list[int]:
        order = list(self._members[bucket])
        random.Random(f"{self._key}/pass/{bucket}/{pass_number}").shuffle(order)
        return order
