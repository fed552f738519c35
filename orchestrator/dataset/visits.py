"""How often each set of pictures is expected to be drawn. Pure arithmetic.

The machine draws sets at random (`remote_trainer.dataset.mixture`); here they run down like water in proportion to
their shares, which is what that comes to on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Drawn:
    """A set as far as its draws go."""

    turns: int | None
    """Batches in one epoch at most; None: any number."""
    probability: float
    holds_epoch: bool


def turns_per_epoch(pictures: int, repeats: int | None, batch_size: int) -> int | None:
    return None if repeats is None else -(-pictures * (repeats + 1) // batch_size)


def expected_turns(sets: Sequence[Drawn], total: int) -> list[float]:
    """Batches that each set gives of `total`, on average; they sum up to it."""
    if len(sets) == 1:
        return [float(total)]
    epoch = _drained(sets, None)
    length = sum(epoch)
    if length <= 0:  # nothing ends an epoch
        weight = sum(each.probability for each in sets)
        return [total * each.probability / weight for each in sets]
    whole, rest = divmod(total, length)
    begun = _drained(sets, rest)
    return [whole * each + more for each, more in zip(epoch, begun, strict=True)]


def epoch_length(sets: Sequence[Drawn]) -> float | None:
    """Batches of one epoch, on average; None where nothing ends it."""
    return sum(_drained(sets, None)) or None


def _drained(sets: Sequence[Drawn], limit: float | None) -> list[float]:
    """Draws in one epoch, or in its first `limit` batches."""
    holders = {k for k, each in enumerate(sets) if each.holds_epoch and each.turns is not None}
    holders = holders or {k for k, each in enumerate(sets) if each.turns is not None}
    drawn = [0.0] * len(sets)
    if not holders:
        return drawn
    alive = {k for k, each in enumerate(sets) if each.turns != 0}
    left = float("inf") if limit is None else limit
    while alive & holders and left > 0:
        weight = sum(sets[k].probability for k in alive)
        # Batches until the next set runs dry.
        until = {k: ((sets[k].turns or 0) - drawn[k]) * weight / sets[k].probability for k in alive if sets[k].turns}
        span = min(left, *until.values()) if until else left
        for k in alive:
            drawn[k] += span * sets[k].probability / weight
        left -= span
        alive -= {k for k, when in until.items() if when <= span * (1 + 1e-12)}
    return drawn
