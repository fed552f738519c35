from __future__ import annotations

import dataclasses
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.interruptions import (
    NONE,
    InterruptionRate,
    Seen,
    assumed_rate,
    best_interval_s,
    expected_time_s,
    observed_rate,
    rate_of,
)
from providers.api import Market, Offer

CHECKPOINTS_S = st.floats(0.5, 120)
RATES_PER_HOUR = st.floats(0.01, 3)


def test_without_interruptions_only_checkpoints_cost_time() -> None:
    assert expected_time_s(1000, 100, 5, 600, 0) == 1050
    assert best_interval_s(5, 0) == math.inf


def test_expected_time_is_what_a_simulation_of_interruptions_takes_on_average() -> None:
    work_s, interval_s, checkpoint_s, restart_s, per_hour = 3600.0, 600.0, 20.0, 120.0, 2.0
    source = random.Random(7)

    def once() -> float:
        clock, done, next_interruption = 0.0, 0.0, source.expovariate(per_hour / 3600)

        def passes(seconds: float) -> bool:
            """Whether so many seconds go by undisturbed; the clock stands at the interruption otherwise."""
            nonlocal clock, next_interruption
            if clock + seconds <= next_interruption:
                clock += seconds
                return True
            clock = next_interruption
            next_interruption = clock + source.expovariate(per_hour / 3600)
            return False

        while done < work_s:
            if passes(interval_s + checkpoint_s):
                done += interval_s
            else:
                while not passes(restart_s):
                    pass
        return clock

    times = [once() for _ in range(4000)]
    average = sum(times) / len(times)
    predicted = expected_time_s(work_s, interval_s, checkpoint_s, restart_s, per_hour)
    assert predicted == pytest.approx(average, rel=0.02)


@settings(max_examples=100)
@given(CHECKPOINTS_S, RATES_PER_HOUR)
def test_no_other_interval_is_notably_better_than_the_best(checkpoint_s: float, per_hour: float) -> None:
    best_s = best_interval_s(checkpoint_s, per_hour)
    least_s = min(expected_time_s(1e4, best_s * 1.05**k, checkpoint_s, 300, per_hour) for k in range(-60, 61))
    assert expected_time_s(1e4, best_s, checkpoint_s, 300, per_hour) <= least_s * 1.001


@given(CHECKPOINTS_S, RATES_PER_HOUR)
def test_the_best_interval_is_young_s_when_checkpoints_are_short(checkpoint_s: float, per_hour: float) -> None:
    young_s = math.sqrt(2 * checkpoint_s * 3600 / per_hour)
    assert best_interval_s(checkpoint_s, per_hour) == pytest.approx(young_s, rel=0.75 * checkpoint_s / young_s + 1e-9)


@given(CHECKPOINTS_S, RATES_PER_HOUR, st.floats(1.1, 10))
def test_more_interruptions_mean_shorter_intervals_and_more_time(
    checkpoint_s: float, per_hour: float, factor: float
) -> None:
    assert best_interval_s(checkpoint_s, per_hour * factor) < best_interval_s(checkpoint_s, per_hour)
    rare, often = (expected_time_s(3600, 300, checkpoint_s, 300, each) for each in (per_hour, per_hour * factor))
    assert rare < often


def test_hopeless_conditions_still_give_a_number() -> None:
    assert math.isfinite(expected_time_s(1e5, 1e5, 100, 1e5, 100))


def test_on_demand_machines_are_not_expected_to_be_taken_away() -> None:
    on_demand = Offer("vast", "1", "RTX 4090", 1, 24.0, Market.ON_DEMAND, 0.4)
    assert assumed_rate(on_demand) == NONE


def test_what_was_seen_counts_for_its_provider_alone() -> None:
    spot = Offer("vast", "1", "RTX 4090", 1, 24.0, Market.SPOT, 0.2)
    elsewhere = dataclasses.replace(spot, provider="runpod")
    seen = {"vast": Seen(5, 10.0)}
    assert rate_of(spot, seen).per_hour > assumed_rate(spot).per_hour
    assert rate_of(elsewhere, seen) == assumed_rate(elsewhere)


def test_what_was_seen_corrects_what_was_assumed() -> None:
    assumed = InterruptionRate(0.25, "assumed")
    assert observed_rate(assumed, 0, 0.0) == assumed
    assert observed_rate(assumed, 0, 12.0).mean_hours == pytest.approx(16.0)
    assert observed_rate(assumed, 7, 12.0).mean_hours == pytest.approx(2.0)
