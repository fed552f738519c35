"""Dollars and the seconds they buy."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace

import pytest

from orchestrator.budget import (
    BOOT_DEADLINE_S,
    MAX_BROKEN,
    MAX_MACHINES,
    WORTH_RENTING_S,
    cost_usd,
    first_lease_s,
    may_rent_again,
    rescue_usd,
    seconds_left,
    spent_usd,
    time_limits,
    training_deadline_s,
    used_before_s,
)
from orchestrator.ledger import MachineRecord, Rate
from orchestrator.lifecycle import Trouble
from providers.api import MachineId

HOUR_S = 3600.0


def machine(hours: float, price: float = 0.5, attempt: int = 1) -> MachineRecord:
    """One that was given back after some hours, all of them from the epoch on."""
    return MachineRecord("tag", "dog", attempt, "cloud", "offer", price, 0.0, MachineId("m"), 0.0, hours * HOUR_S)


def test_all_attempts_draw_on_one_ceiling() -> None:
    machines = [machine(2.0, attempt=1), machine(1.0, attempt=2)]
    assert spent_usd(machines, now=99 * HOUR_S) == pytest.approx(1.5)
    assert seconds_left(5.0, 0.5, machines, now=99 * HOUR_S) == pytest.approx(7 * HOUR_S)


def test_a_run_has_cost_what_was_billed_and_the_ceiling_goes_by_our_own_count() -> None:
    billed = dataclasses.replace(machine(2.0), billed_usd=0.93)
    assert cost_usd([billed, machine(1.0)], now=99 * HOUR_S) == pytest.approx(0.93 + 0.5)
    assert spent_usd([billed], now=99 * HOUR_S) == pytest.approx(1.0)


def test_what_bytes_cost_is_inside_the_ceiling_from_the_first_second() -> None:
    dear = replace(machine(2.0), traffic_usd=0.8)
    assert spent_usd([dear], now=99 * HOUR_S) == pytest.approx(1.8)
    assert spent_usd([replace(dear, absent_at=None)], now=1.0) == pytest.approx(0.8, abs=0.001)
    assert seconds_left(5.0, 0.5, [dear], now=99 * HOUR_S) == pytest.approx(3.2 / 0.5 * HOUR_S)
    assert spent_usd([replace(dear, machine_id=None, refused=True)], now=99 * HOUR_S) == 0.0, "it never was"


def test_a_machine_of_a_minute_is_billed_for_less_than_the_wait_until_it_was_gone() -> None:
    a_minute = dataclasses.replace(machine(1 / 60), billed_usd=0.002)
    assert cost_usd([a_minute], now=99 * HOUR_S) == pytest.approx(0.002)


def test_a_bill_that_has_hardly_begun_is_not_the_bill() -> None:
    assert cost_usd([dataclasses.replace(machine(2.0), billed_usd=0.3)], now=99 * HOUR_S) == pytest.approx(1.0)


def test_what_costs_nothing_lasts_forever() -> None:
    assert math.isinf(seconds_left(0.0, 0.0, [], now=0.0))
    assert training_deadline_s(5.0, 0.0, None, [], now=0.0) is None


def test_another_machine_is_worth_it_only_with_time_to_train() -> None:
    assert may_rent_again(5.0, 1, [machine(9.5)], now=99 * HOUR_S)
    assert not may_rent_again(5.0, 1, [machine(9.9)], now=99 * HOUR_S)


def test_the_number_of_machines_of_an_attempt_is_bounded() -> None:
    cheap = [machine(0.01)] * MAX_MACHINES
    assert not may_rent_again(5.0, 1, cheap, now=HOUR_S)
    assert may_rent_again(5.0, 2, cheap, now=HOUR_S), "a person has asked for a new attempt"


@pytest.mark.parametrize(("hours", "reserve_s"), [(0.1, 60.0), (1.0, 360.0), (9.0, 900.0)])
def test_a_reserve_is_kept_for_the_way_home(hours: float, reserve_s: float) -> None:
    assert training_deadline_s(hours, 1.0, None, [], now=0.0) == pytest.approx(hours * HOUR_S - reserve_s)


def test_the_users_own_limit_holds_too() -> None:
    assert training_deadline_s(5.0, 0.5, 2.0, [], now=0.0) == 2 * HOUR_S
    assert training_deadline_s(5.0, 0.0, 2.0, [], now=0.0) == 2 * HOUR_S


def test_a_users_hours_span_the_machines_of_an_attempt() -> None:
    now = replace(machine(0.0), tag="now", absent_at=None, created_at=9 * HOUR_S)
    earlier = [machine(0.5), machine(0.25), machine(4.0, attempt=2), now]
    used_s = used_before_s(now, earlier, now=10 * HOUR_S)
    assert used_s == pytest.approx(0.75 * HOUR_S)
    assert time_limits(5.0, 0.0, 2.0, [], now=0.0, used_s=used_s).deadline_s == pytest.approx(1.25 * HOUR_S)


def test_the_rescue_is_inside_the_ceiling() -> None:
    kept_back = rescue_usd(0.6, disk_per_day_usd=0.1, rescue_hours=72)
    assert kept_back == pytest.approx(0.3 + 0.1), "three days of disk, and ten minutes to bring home what it holds"
    limits = time_limits(1.0, 0.6, None, [], now=0.0, kept_back_usd=kept_back)
    assert limits.limit_s == pytest.approx(HOUR_S)
    assert limits.deadline_s == pytest.approx(HOUR_S - limits.reserve_s)


def test_a_machine_is_counted_at_what_it_billed_when() -> None:
    rates = (Rate(1 * HOUR_S, 1.0, stopped=False), Rate(2 * HOUR_S, 0.01, stopped=True))
    assert spent_usd([replace(machine(12.0), rates=rates)], now=0.0) == pytest.approx(0.5 + 1.0 + 0.1)


def test_broken_machines_are_not_replaced_for_ever() -> None:
    broken = replace(machine(0.01), trouble=Trouble.BROKEN)
    assert may_rent_again(5.0, 1, [broken] * (MAX_BROKEN - 1), now=HOUR_S)
    assert not may_rent_again(5.0, 1, [broken] * MAX_BROKEN, now=HOUR_S)


def test_a_machine_that_nobody_reaches_ends_within_what_is_left() -> None:
    assert first_lease_s(math.inf) == first_lease_s(9999.0) == 1500.0
    assert first_lease_s(1000.0) == 1000.0 - BOOT_DEADLINE_S
    assert first_lease_s(WORTH_RENTING_S) == WORTH_RENTING_S - BOOT_DEADLINE_S == 300.0, "enough for a login"


def test_a_spent_ceiling_leaves_no_time() -> None:
    assert training_deadline_s(1.0, 1.0, None, [machine(3.0, price=1.0)], now=99 * HOUR_S) == 0.0
