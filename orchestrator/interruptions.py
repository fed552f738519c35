"""What interruptions cost, and how often to commit a checkpoint because of them. Pure.

    interruptions at rate λ, checkpoints of cost C every τ seconds of work, R seconds to be at work again
      ->  expected time, best τ

Sources: J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17(9), 1974;
J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", Future Generation Computer
Systems 22(3), 2006. Both assume that interruptions come independently of each other (exponential times between them).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from providers.api import Market, Offer

_MAX_EXPONENT = 50.0
"""Beyond it nothing ever gets done; kept finite so that it can be shown and compared."""


@dataclass(frozen=True)
class InterruptionRate:
    """`per_hour` while a machine runs, and where the number comes from."""

    per_hour: float
    source: str

    @property
    def mean_hours(self) -> float:
        """Between two interruptions; infinite without any."""
        return math.inf if self.per_hour <= 0 else 1 / self.per_hour


NONE = InterruptionRate(0.0, "on-demand machines are not taken away")
_SPOT_MEAN_HOURS = {"vast": 3.0, "runpod": 6.0}
_OTHER_SPOT_MEAN_HOURS = 4.0
ASSUMED_DOUBT = 4.0
"""Providers publish no rate; the assumed one may be wrong by so much either way."""


def assumed_rate(offer: Offer) -> InterruptionRate:
    """Of the offer's market. No provider publishes a rate for its spot machines: these are assumptions."""
    if offer.market is Market.ON_DEMAND:
        return NONE
    return InterruptionRate(1 / _SPOT_MEAN_HOURS.get(offer.provider, _OTHER_SPOT_MEAN_HOURS), "assumed")


@dataclass(frozen=True)
class Seen:
    """What spot machines of one provider have done so far."""

    interruptions: int
    hours: float
    """How long they have lived in all."""


def rate_of(offer: Offer, seen: Mapping[str, Seen]) -> InterruptionRate:
    """Assumed, and corrected by what was `seen`, by provider."""
    assumed, of_provider = assumed_rate(offer), seen.get(offer.provider)
    return assumed if of_provider is None else observed_rate(assumed, of_provider.interruptions, of_provider.hours)


def observed_rate(assumed: InterruptionRate, interruptions: int, hours: float) -> InterruptionRate:
    """The assumption corrected by `interruptions` seen in `hours` of such machines.

    The assumption counts as one interruption in its mean time (the mean of a gamma posterior with shape 1), so that one
    unlucky hour does not overturn it and a long record does.
    """
    if assumed.per_hour <= 0 or hours <= 0:
        return assumed
    return InterruptionRate(
        (1 + interruptions) / (assumed.mean_hours + hours), f"{interruptions} in {hours:.1f} h seen"
    )


def expected_time_s(work_s: float, interval_s: float, checkpoint_s: float, restart_s: float, per_hour: float) -> float:
    """Expected wall time of `work_s` seconds of work with a checkpoint after every `interval_s` of it.

    Daly 2006, the complete model: (1/λ)·e^{λR}·(e^{λ(τ+C)} - 1)·W/τ, in which a restart may be interrupted as well.
    Without interruptions W·(1 + C/τ). All arguments but the rate in seconds; `interval_s` > 0.
    """
    rate = per_hour / 3600
    segments = work_s / interval_s
    if rate <= 0:
        return work_s + segments * checkpoint_s
    segment = math.expm1(min(_MAX_EXPONENT, rate * (interval_s + checkpoint_s))) / rate
    return math.exp(min(_MAX_EXPONENT, rate * restart_s)) * segment * segments


def best_interval_s(checkpoint_s: float, per_hour: float) -> float:
    """Seconds of work between two checkpoints that make `expected_time_s` least; infinite without interruptions.

    Daly 2006: √(2CM)·(1 + ⅓·√(C/2M) + ⅑·C/2M) - C for C < 2M, else M, where M is the mean time between interruptions.
    Its first factor is Young's formula of 1974. It does not depend on what a restart costs.
    """
    if per_hour <= 0:
        return math.inf
    mean_s = 3600 / per_hour
    if checkpoint_s >= 2 * mean_s:
        return mean_s
    small = checkpoint_s / (2 * mean_s)
    return math.sqrt(2 * checkpoint_s * mean_s) * (1 + math.sqrt(small) / 3 + small / 9) - checkpoint_s
