"""Which faults follow one another in three of four schedules, so that each kind comes after each other equally often.

With a prime number of places, the chains `start, start + step, start + 2 step, …` for every start and every step put
each ordered pair of places into as many chains as a chain has pairs. The kinds take the places; those that strike
least often take what is left over as well.
"""

from __future__ import annotations

from random import Random

from providers.testing.faults import CloudFault
from tests.simulation.kinds import TODAY, Kind, WorldFault

LENGTH = 7
DRAWN_EVERY = 4
"""Every so many seeds a schedule is drawn freely instead."""
_AGAIN: tuple[Kind, ...] = (
    CloudFault.NO_RESTART,
    CloudFault.DISK_VANISHES,
    WorldFault.DAMAGED,
    WorldFault.STORE_UNREACHABLE,
    WorldFault.URLS_DEAD,
    WorldFault.UPLOADER_KILLED,
    CloudFault.NO_RESTART,
    WorldFault.LAPTOP_FULL,
    WorldFault.URLS_DEAD,
)
_PLACES: tuple[Kind, ...] = (*TODAY, *_AGAIN)


def _chains() -> tuple[tuple[int, int], ...]:
    """(start, step) of each, shuffled: neighbors among the kinds are not neighbors among the seeds."""
    count = len(_PLACES)
    assert all(count % divisor for divisor in range(2, count)), f"{count} places are not a prime number"
    chains = [(start, step) for start in range(count) for step in range(1, count)]
    Random(0).shuffle(chains)
    return tuple(chains)


_CHAINS = _chains()


def designed(seed: int) -> tuple[Kind, ...]:
    """The faults of a schedule, in order; empty where it is drawn freely."""
    if seed % DRAWN_EVERY == 0:
        return ()
    start, step = _CHAINS[(seed - seed // DRAWN_EVERY) % len(_CHAINS)]
    return tuple(_PLACES[(start + i * step) % len(_PLACES)] for i in range(LENGTH))
