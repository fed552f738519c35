"""The durable memory: intent before act, compare and set, one driver."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from orchestrator.budget import may_bill, spent_usd
from orchestrator.errors import RunConflict, StaleDriver, UsageError
from orchestrator.ledger import Ledger
from orchestrator.lifecycle import EndReason, Standing, State, Wish
from providers.api import MachineId, Market, Offer
from tests.unit.fake_clock import FakeClock


def offer(price_usd: float) -> Offer:
    return Offer("cloud", "offer", "GPU", 1, 24.0, Market.ON_DEMAND, price_usd)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(tmp_path: Path, clock: FakeClock) -> Ledger:
    ledger = Ledger(tmp_path / "ledger.sqlite3", clock)
    ledger.add_run("dog", "local", "{}", "{}")
    return ledger


def test_a_name_is_taken_once(ledger: Ledger) -> None:
    with pytest.raises(RunConflict, match="a run named `dog` exists") as caught:
        ledger.add_run("dog", "local", "{}", "{}")
    assert "--name dog-2" in caught.value.hint


def test_an_unknown_name_gets_the_nearest_known_one(ledger: Ledger) -> None:
    with pytest.raises(UsageError) as caught:
        ledger.run("dogg")
    assert caught.value.hint == "did you mean `dog`?"


def test_a_move_must_leave_the_state_the_run_is_in(ledger: Ledger) -> None:
    epoch = ledger.become_driver("dog")
    ledger.move("dog", epoch, State.PLANNED, State.PROVISIONING, "first")
    with pytest.raises(RunConflict, match="no longer planned"):
        ledger.move("dog", epoch, State.PLANNED, State.PROVISIONING, "second")
    assert [move.why for move in ledger.moves("dog")] == ["first"]


def test_an_illegal_move_is_refused(ledger: Ledger) -> None:
    epoch = ledger.become_driver("dog")
    with pytest.raises(RunConflict, match="cannot go from planned to training"):
        ledger.move("dog", epoch, State.PLANNED, State.TRAINING, "")


def test_a_driver_with_an_old_epoch_can_write_nothing(ledger: Ledger) -> None:
    old = ledger.become_driver("dog")
    new = ledger.become_driver("dog")
    run = ledger.run("dog")
    ledger.record_intent(run, new, "tag", offer(0.5))
    for act in (
        lambda: ledger.move("dog", old, State.PLANNED, State.PROVISIONING, ""),
        lambda: ledger.record_intent(run, old, "tag-2", offer(0.5)),
        lambda: ledger.record_created("dog", old, "tag", MachineId("m")),
        lambda: ledger.record_absent("dog", old, "tag"),
        lambda: ledger.start_attempt("dog", old),
    ):
        with pytest.raises(StaleDriver):
            act()
    assert ledger.run("dog").state is State.PLANNED
    assert [machine.standing for machine in ledger.machines("dog")] == [Standing.UNSETTLED]


def test_the_reason_is_kept_to_the_end(ledger: Ledger) -> None:
    epoch = ledger.become_driver("dog")
    ledger.move("dog", epoch, State.PLANNED, State.RELEASING, "", EndReason.CANCELED)
    run = ledger.move("dog", epoch, State.RELEASING, State.ENDED, "")
    assert (run.reason, run.ended_at is not None) == (EndReason.CANCELED, True)


def test_a_new_attempt_starts_with_a_clean_slate(ledger: Ledger) -> None:
    epoch = ledger.become_driver("dog")
    ledger.set_wish("dog", Wish.DOWN)
    ledger.move("dog", epoch, State.PLANNED, State.RELEASING, "", EndReason.CANCELED)
    ledger.move("dog", epoch, State.RELEASING, State.ENDED, "")
    run = ledger.start_attempt("dog", epoch)
    assert (run.state, run.wish, run.reason, run.attempt, run.ended_at) == (State.PLANNED, Wish.RUN, None, 2, None)


def test_a_wish_only_grows(ledger: Ledger) -> None:
    ledger.set_wish("dog", Wish.DOWN)
    ledger.set_wish("dog", Wish.STOP)
    assert ledger.run("dog").wish is Wish.DOWN


def test_everything_survives_the_process(ledger: Ledger, tmp_path: Path, clock: FakeClock) -> None:
    epoch = ledger.become_driver("dog")
    ledger.record_intent(ledger.run("dog"), epoch, "tag", offer(0.5))
    again = Ledger(tmp_path / "ledger.sqlite3", clock)
    assert again.run("dog") == ledger.run("dog")
    assert again.open_machines() == ledger.machines("dog")
    assert again.installation == ledger.installation


def test_two_processes_cannot_both_make_the_same_move(tmp_path: Path, ledger: Ledger) -> None:
    epoch = ledger.become_driver("dog")
    won: list[str] = []
    start = threading.Barrier(4)

    def race(name: str) -> None:
        mine = Ledger(tmp_path / "ledger.sqlite3", FakeClock())
        start.wait()
        try:
            mine.move("dog", epoch, State.PLANNED, State.PROVISIONING, name)
            won.append(name)
        except RunConflict:
            pass

    threads = [threading.Thread(target=race, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [move.why for move in ledger.moves("dog")] == won
    assert len(won) == 1


def test_money_counts_from_creation_to_confirmed_absence(ledger: Ledger, clock: FakeClock) -> None:
    epoch = ledger.become_driver("dog")
    ledger.record_intent(ledger.run("dog"), epoch, "tag", offer(0.60))
    clock.sleep(600)
    assert spent_usd(ledger.machines("dog"), clock.now()) == pytest.approx(0.10), "an unsettled intent may bill"
    ledger.record_created("dog", epoch, "tag", MachineId("m"))
    clock.sleep(1800)
    assert may_bill(ledger.machines("dog")) == ledger.machines("dog")
    ledger.record_absent("dog", epoch, "tag")
    clock.sleep(9999)
    assert spent_usd(ledger.machines("dog"), clock.now()) == pytest.approx(0.30)
    assert may_bill(ledger.machines("dog")) == []


def test_an_adopted_machine_has_billed_since_its_intent(ledger: Ledger, clock: FakeClock) -> None:
    epoch = ledger.become_driver("dog")
    ledger.record_intent(ledger.run("dog"), epoch, "tag", offer(0.60))
    clock.sleep(600)
    ledger.record_created("dog", epoch, "tag", MachineId("m"), adopted=True)
    clock.sleep(600)
    assert spent_usd(ledger.machines("dog"), clock.now()) == pytest.approx(0.20)


def test_a_bill_is_kept_until_its_machine_turns_out_to_exist(ledger: Ledger) -> None:
    epoch = ledger.become_driver("dog")
    ledger.record_intent(ledger.run("dog"), epoch, "tag", offer(0.60))
    ledger.record_absent("dog", epoch, "tag")
    ledger.record_bill("tag", 0.12)
    assert ledger.machines("dog")[0].billed_usd == 0.12
    ledger.reopen("tag", MachineId("m1"))
    assert ledger.machines("dog")[0].billed_usd is None


def test_names_that_a_disk_may_hold_for_one_are_one(ledger: Ledger) -> None:
    with pytest.raises(RunConflict, match="a run named `Dog` exists"):
        ledger.add_run("Dog", "local", "{}", "{}")


def test_an_interrupt_within_a_transaction_leaves_none_open(ledger: Ledger) -> None:
    with pytest.raises(KeyboardInterrupt), ledger._transaction():
        raise KeyboardInterrupt
    ledger.set_wish("dog", Wish.DOWN)
    assert ledger.run("dog").wish is Wish.DOWN


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"the state folder .*file cannot be used") as caught:
        Ledger(tmp_path / "file" / "ledger.sqlite3", FakeClock())
    assert "CLOUDBOOTH_HOME" in caught.value.hint
