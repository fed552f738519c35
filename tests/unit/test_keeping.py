"""How long a machine stays after its run, and who may use it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import RunConflict
from orchestrator.home import RunHome
from orchestrator.keeping import held_as, keep_left_s, paid_for_s
from orchestrator.ledger import Ledger
from orchestrator.lifecycle import Do, EndReason, Facts, Move, Phase, Standing, State, Wish, next_step
from orchestrator.spec import Compute, Limits, RunSpec, Subject, spec_to_json
from orchestrator.spec_data import Data
from orchestrator.staging import read_staged_job
from providers.api import MachineId, Market, Offer
from tests.unit.fake_clock import FakeClock

DONE = EndReason.DONE


def step(state: State, wish: Wish = Wish.RUN, standing: Standing = Standing.HELD, **facts: object) -> Do | Move:
    found = next_step(state, wish, DONE, standing, Facts(**facts))  # type: ignore[arg-type]
    assert isinstance(found, Do | Move)
    return found


@pytest.mark.parametrize(
    ("keep_s", "kept_for_s", "money_left_s", "in_use", "left_s"),
    [
        (0, 0, 9000, False, 0),  # nobody asked for it
        (1800, 600, 9000, False, 1200),
        (1800, 1800, 9000, False, 0),
        (1800, 600, 300, False, 300),  # never beyond the ceiling
        (1800, 7200, 900, True, 900),  # a run that uses it is not thrown out
        (1800, 600, -5, True, 0),
    ],
)
def test_a_machine_stays_as_long_as_asked_used_or_paid_for(
    keep_s: float, kept_for_s: float, money_left_s: float, in_use: bool, left_s: float
) -> None:
    assert keep_left_s(keep_s, kept_for_s, money_left_s, in_use=in_use) == left_s


def test_another_run_has_the_time_that_the_keepers_ceiling_pays_for(tmp_path: Path) -> None:
    clock = FakeClock()
    ledger = Ledger(tmp_path / "ledger.sqlite3", clock)
    spec = RunSpec(
        name="dog",
        subject=Subject(instance_prompt="a dog"),
        data=Data(instance=Path("photos")),
        compute=Compute(provider="cloud"),
        limits=Limits(max_cost_usd=2.0),
    )
    ledger.add_run("dog", "cloud", spec_to_json(spec), "{}")
    epoch = ledger.become_driver("dog")
    offer = Offer("cloud", "offer", "GPU", 1, 24.0, Market.ON_DEMAND, 0.5)
    ledger.record_intent(ledger.run("dog"), epoch, "cb-x-dog", offer, rescue_usd=0.25)
    ledger.record_created("dog", epoch, "cb-x-dog", MachineId("m1"))
    clock.sleep(3600)
    kept = held_as(ledger, "cloud", "m1")
    assert kept is not None
    assert paid_for_s(ledger, kept, clock.now()) == pytest.approx((2.0 - 0.5 - 0.25) / 0.5 * 3600)
    clock.sleep(9 * 3600)
    assert paid_for_s(ledger, kept, clock.now()) == 0.0


def test_a_model_that_is_home_leads_to_keeping_only_where_that_was_asked_for() -> None:
    kept = step(State.RETRIEVING, retrieved=True, keep_left_s=60.0)
    plain = step(State.RETRIEVING, retrieved=True)
    assert (kept, plain) == (
        Move(State.KEEPING, "all files are here and verified; the machine stays for the next run"),
        Move(State.RELEASING, "all files are here and verified"),
    )


def test_it_is_kept_while_time_is_left() -> None:
    assert step(State.KEEPING, keep_left_s=60.0) == Do(Phase.KEEP)


@pytest.mark.parametrize(
    ("wish", "standing", "facts"),
    [
        (Wish.RUN, Standing.HELD, {"keep_left_s": 0.0}),
        (Wish.STOP, Standing.HELD, {"keep_left_s": 60.0}),
        (Wish.DOWN, Standing.HELD, {"keep_left_s": 60.0}),
        (Wish.RUN, Standing.HELD, {"keep_left_s": 60.0, "machine_lost": "it is gone"}),
        (Wish.RUN, Standing.ABSENT, {"keep_left_s": 60.0}),
    ],
)
def test_whatever_ends_the_keeping_the_run_stays_done(wish: Wish, standing: Standing, facts: dict[str, object]) -> None:
    ended = step(State.KEEPING, wish, standing, **facts)
    assert isinstance(ended, Move)
    assert (ended.to, ended.reason) == (State.RELEASING, DONE)


def test_a_run_with_nothing_to_train_is_given_back_by_hand_and_is_no_crash(tmp_path: Path) -> None:
    with pytest.raises(RunConflict, match="nothing to train") as caught:
        read_staged_job(RunHome(tmp_path / "fire-drill-cloud-5"))
    assert "cloudbooth down fire-drill-cloud-5" in caught.value.hint
