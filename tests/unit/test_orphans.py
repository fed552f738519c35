"""Machines nobody answers for, and the line under every command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cli.billing import billing_line, warn_of_bills
from orchestrator.ledger import Ledger
from orchestrator.lifecycle import EndReason, Keeps, State, Trouble
from orchestrator.orphans import find_orphans, tag_prefix
from providers.api import Machine, MachineId, MachineStatus, Market, Offer
from tests.unit.fake_clock import FakeClock


def offer(price_usd: float) -> Offer:
    return Offer("cloud", "offer", "GPU", 1, 24.0, Market.ON_DEMAND, price_usd)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(isolated_home: Path, clock: FakeClock) -> Ledger:
    """The ledger of this test's own home, with one run that holds one machine at $0.60/h."""
    ledger = Ledger(isolated_home / "cloudbooth" / "ledger.sqlite3", clock)
    ledger.add_run("dog", "cloud", "{}", "{}")
    epoch = ledger.become_driver("dog")
    ledger.record_intent(ledger.run("dog"), epoch, "cb-x-dog", offer(0.60))
    ledger.record_created("dog", epoch, "cb-x-dog", MachineId("m1"))
    return ledger


def listed(tag: str) -> Machine:
    return Machine(MachineId("m1"), tag, MachineStatus.RUNNING, "RUNNING", 0.6, None)


def whys(ledger: Ledger, *tags: str) -> list[str]:
    machines = [listed(tag) for tag in tags]
    return [orphan.why for orphan in find_orphans("cloud", machines, ledger.every_machine(), ledger.runs())]


def end(ledger: Ledger) -> None:
    ledger.move("dog", 1, State.PLANNED, State.RELEASING, "", EndReason.CANCELED)
    ledger.move("dog", 1, State.RELEASING, State.ENDED, "")


def test_the_machine_of_a_living_run_is_left_alone(ledger: Ledger) -> None:
    assert whys(ledger, "cb-x-dog") == []


def test_a_machine_that_no_run_knows_is_an_orphan(ledger: Ledger) -> None:
    assert whys(ledger, "cb-x-cat") == ["no run of this installation knows it"]


def test_a_machine_whose_run_has_ended_is_an_orphan(ledger: Ledger) -> None:
    end(ledger)
    assert whys(ledger, "cb-x-dog") == ["its run `dog` has ended"]


def test_a_machine_that_came_back_from_the_dead_is_an_orphan(ledger: Ledger) -> None:
    ledger.record_absent("dog", 1, "cb-x-dog")
    assert whys(ledger, "cb-x-dog") == ["run `dog` believes it gone"]


def test_only_tags_of_this_installation_are_asked_for(ledger: Ledger) -> None:
    assert tag_prefix(ledger.installation) == f"cb-{ledger.installation}-"


def test_what_may_bill_is_said_under_every_command(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_bills()
    told = capsys.readouterr()
    assert told.out == ""
    assert "billing: cb-x-dog on cloud, $0.60/h" in told.err
    assert "`cloudbooth down dog`" in told.err
    ledger.record_absent("dog", 1, "cb-x-dog")
    warn_of_bills()
    assert capsys.readouterr().err == ""


def test_an_unanswered_create_may_bill_too(ledger: Ledger, clock: FakeClock) -> None:
    ledger.record_intent(ledger.run("dog"), 1, "cb-x-dog-2", offer(1.0))
    clock.sleep(7200)
    line = billing_line(ledger.open_machines()[-1], ledger.run("dog"), clock.now())
    assert line.startswith("perhaps billing: cb-x-dog-2 on cloud, $1.00/h for 2.0 h")


def test_a_stopped_disk_is_shown_by_the_day(ledger: Ledger, clock: FakeClock) -> None:
    epoch = ledger.become_driver("dog")
    ledger.record_intent(ledger.run("dog"), epoch, "cb-x-dog-2", replace(offer(1.0), stopped_disk_per_day_usd=0.12))
    ledger.record_created("dog", epoch, "cb-x-dog-2", MachineId("m2"))
    ledger.record_trouble("dog", epoch, "cb-x-dog-2", Trouble.LOST, "stopped", Keeps.MODEL, stopped=True)
    clock.sleep(3600)
    line = billing_line(ledger.open_machines()[-1], ledger.run("dog"), clock.now())
    assert line.startswith("billing: cb-x-dog-2 on cloud, $0.12 a day for its stopped disk for 1.0 h now; it holds the")
    assert "`cloudbooth attach dog` fetches that, `cloudbooth down dog` gives it up" in line


def test_what_an_ended_run_left_behind_is_for_gc(ledger: Ledger, clock: FakeClock) -> None:
    end(ledger)
    assert "`cloudbooth gc` gives it back" in billing_line(ledger.open_machines()[0], ledger.run("dog"), clock.now())


def test_a_home_without_a_ledger_is_not_given_one(isolated_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_bills()
    assert capsys.readouterr().err == ""
    assert not (isolated_home / "cloudbooth").exists()
