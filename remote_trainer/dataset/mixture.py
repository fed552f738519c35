"""Which set of pictures the k-th micro-batch comes from: a function of (seed, k), so that resuming needs only k.

An epoch gives a set `turns` micro-batches at most. Each turn goes to one of the sets that have some left, drawn by
their shares; the epoch ends when no set that holds it open has any left, and all begin anew. So sets of equal shares
mix evenly, however different their sizes, and a set with more passes than it is drawn for never runs dry.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..wire import DatasetSpec


@dataclass(frozen=True)
class Share:
    """A set as the mixture sees it."""

    turns: int | None
    """Micro-batches in one epoch at most; None: any number."""
    probability: float
    holds_epoch: bool


def share_of(spec: DatasetSpec, pictures: int, batch_size: int) -> Share:
    """The last micro-batch of an epoch is whole: it begins the next pass."""
    turns = None if spec.repeats is None else -(-pictures * (spec.repeats + 1) // batch_size)
    return Share(turns, spec.probability, holds_epoch=turns is not None and not spec.ignore_epochs)


class Mixture:
    """shares: one for each set, at least one. `label` separates the draws of mixtures that share a seed.

    Where no set holds epochs open, all that can run dry do.
    """

    def __init__(self, shares: Sequence[Share], seed: int, label: str) -> None:
        self._shares = shares
        holders = {index for index, share in enumerate(shares) if share.holds_epoch}
        self._holders = holders or {index for index, share in enumerate(shares) if share.turns is not None}
        self._key = f"{label}/{seed}/mixture"
        self._known: list[tuple[int, int]] = []
        self._stream = self._play()

    def turn(self, position: int) -> tuple[int, int]:
        """The set whose turn micro-batch `position` (0, 1, …) is, and how many turns it has had before.

        The first call for a late position replays all before it: about a microsecond each.
        """
        if len(self._shares) == 1:
            return 0, position
        if position >= len(self._known):
            self._known += itertools.islice(self._stream, position + 1 - len(self._known))
        return self._known[position]

    def _play(self) -> Iterator[tuple[int, int]]:
        had = [0] * len(self._shares)
        for epoch in itertools.count():
            source = random.Random(f"{self._key}/{epoch}")
            left = [share.turns for share in self._shares]
            while not self._holders or any(left[index] for index in self._holders):
                drawn = self._draw(source.random(), left)
                yield drawn, had[drawn]
                had[drawn] += 1
                remaining = left[drawn]
                left[drawn] = None if remaining is None else remaining - 1

    def _draw(self, point: float, left: Sequence[int | None]) -> int:
        """By shares among the sets that have turns left; `point` in [0, 1)."""
        alive = [index for index, turns in enumerate(left) if turns != 0]
        mark = point * sum(self._shares[index].probability for index in alive)
        for index in alive[:-1]:
            mark -= self._shares[index].probability
            if mark < 0:
                return index
        return alive[-1]
