"""Pictures at Replicate: one prediction a seed, each on record before it is asked for and until it is over."""

from __future__ import annotations

import pytest

from orchestrator.cli.billing import prediction_line
from orchestrator.doctor import bills
from orchestrator.errors import RunConflict
from orchestrator.finished_model import FinishedModel, finished_model
from orchestrator.hosted.predicting import predict_pictures
from orchestrator.hosted.predictions import ABSENT, SHOWS_WISH_S, ask, record_of, settle
from orchestrator.latecomers import SETTLE_AGE_S
from orchestrator.ledger import PredictionRecord
from orchestrator.wiring import Wiring, connect
from providers.errors import CloudboothError, Indeterminate
from providers.jobs import PredictionWish
from remote_trainer import wire
from tests.fakes.hosted_run import HostedRun
from tests.fakes.replicate import FakeReplicate
from tests.unit.fake_clock import FakeClock

WISH = PredictionWish("sks robot", "", 7, None, None, None, None)


@pytest.fixture
def run(accepted: HostedRun) -> HostedRun:
    """Done: the model is at the service, and here."""
    accepted.drive()
    return accepted


class Pictures:
    """A wish for pictures of a run's model."""

    def __init__(self, run: HostedRun, count: int = 3) -> None:
        self.run, self.model = run, finished_model(run.ledger, "bot")
        self.folder, self.told = run.folder / "pictures", list[str]()
        self.job = wire.PictureJob(
            "bot", self.model.base, str(self.model.path), self.model.kind, "sks robot on the moon", count=count, seed=7
        )

    def make(self, wiring: Wiring | None = None) -> list[wire.FileEntry]:
        wiring = wiring or Wiring(self.run.home, self.run.clock, self.run.ledger, connect)
        return predict_pictures(wiring, self.run.spec, self.model, self.job, self.folder, self.told.append)

    @property
    def records(self) -> list[PredictionRecord]:
        return self.run.ledger.predictions("bot")


@pytest.fixture
def pictures(run: HostedRun, replicate: FakeReplicate, monkeypatch: pytest.MonkeyPatch) -> Pictures:
    for name, value in replicate.environ.items():
        monkeypatch.setenv(name, value)
    return Pictures(run)


def asked(run: HostedRun, model: FinishedModel) -> PredictionRecord:
    """By a command that is then killed."""
    tag = ask(run.ledger, run.clock, run.provider, "bot", model.hosted, model.base, WISH)
    return record_of(run.ledger, "bot", tag)


def settle_open(run: HostedRun) -> list[str]:
    """As the next command does."""
    told = list[str]()
    settle(run.ledger, run.clock, run.provider, run.ledger.open_predictions(), told.append)
    return told


def test_each_seed_is_a_picture_and_a_prediction_of_its_own(pictures: Pictures, replicate: FakeReplicate) -> None:
    assert [entry.path for entry in pictures.make()] == ["7.png", "8.png", "9.png", "grid.png"]
    asked_for = [prediction["input"] for prediction in replicate.predictions.values()]
    assert [(each["seed"], each["prompt"]) for each in asked_for] == [(seed, pictures.job.prompt) for seed in (7, 8, 9)]


def test_what_they_cost_is_on_record_and_said(pictures: Pictures) -> None:
    pictures.make()
    assert [(record.outcome, record.usd) for record in pictures.records] == [("succeeded", 3.5 * 0.000975)] * 3
    assert "bills" in pictures.told[0]
    assert pictures.told[-1] == "they have cost about $0.010"
    assert pictures.run.ledger.open_predictions() == []


def test_a_page_in_place_of_a_picture_is_an_error_and_no_file(pictures: Pictures, replicate: FakeReplicate) -> None:
    replicate.picture = b"<html>expired</html>"
    with pytest.raises(CloudboothError, match="handed out is no picture"):
        pictures.make()
    assert len(replicate.predictions) == 1, "the others were not paid for"
    assert list(pictures.folder.iterdir()) == []


def test_a_lost_answer_is_looked_for_and_nothing_is_asked_twice(pictures: Pictures, replicate: FakeReplicate) -> None:
    replicate.lose_answers = 1
    assert len(pictures.make()) == 4
    assert len(replicate.predictions) == 3


def test_the_same_wish_of_an_earlier_day_is_not_taken_for_the_lost_one(
    pictures: Pictures, replicate: FakeReplicate
) -> None:
    first = asked(pictures.run, pictures.model)
    replicate.lose_answers = 1
    assert asked(pictures.run, pictures.model).prediction not in (None, first.prediction)


def test_one_whose_answer_was_lost_may_bill_until_the_service_has_not_shown_it_for_minutes(
    pictures: Pictures, replicate: FakeReplicate
) -> None:
    replicate.lose_requests, run = 1, pictures.run
    with pytest.raises(Indeterminate):
        asked(run, pictures.model)
    [open_] = run.ledger.open_predictions()
    assert prediction_line(open_, run.clock.now()).startswith(f"perhaps billing: {open_.tag} on replicate, $3.51/h")
    assert settle_open(run) == []
    run.clock.sleep(SETTLE_AGE_S)
    assert settle_open(run) == [f"{open_.tag} was never made at replicate"]
    assert [(record.outcome, record.usd) for record in pictures.records] == [(ABSENT, 0.0)]


def test_of_one_that_may_have_been_cleared_away_by_now_nobody_says_that_it_cost_nothing(
    pictures: Pictures, replicate: FakeReplicate
) -> None:
    replicate.lose_requests, run = 1, pictures.run
    with pytest.raises(Indeterminate):
        asked(run, pictures.model)
    run.clock.sleep(SHOWS_WISH_S)
    assert "not known" in settle_open(run)[0]
    assert [(record.outcome, record.usd) for record in pictures.records] == [(ABSENT, None)]


def test_one_that_does_not_show_yet_may_bill_for_minutes(pictures: Pictures, replicate: FakeReplicate) -> None:
    run = pictures.run
    asked(run, pictures.model)
    replicate.predictions.clear()
    assert settle_open(run) == []
    assert len(run.ledger.open_predictions()) == 1
    run.clock.sleep(SETTLE_AGE_S)
    settle_open(run)
    assert [(record.outcome, record.usd) for record in pictures.records] == [(ABSENT, None)]


def test_what_a_killed_command_has_asked_for_is_settled_by_the_next_one(
    pictures: Pictures, replicate: FakeReplicate
) -> None:
    replicate.slow_pictures, run = True, pictures.run
    left = asked(run, pictures.model)
    assert settle_open(run) == []
    assert prediction_line(left, run.clock.now()).startswith(f"billing: {left.tag}")
    assert left.tag in next(bills(run.ledger)).fact, "doctor names it, too"
    replicate.slow_pictures = False
    assert settle_open(run) == [f"{left.tag} at replicate is over: succeeded, cost about $0.003"]
    assert run.ledger.open_predictions() == []


def test_what_the_service_refuses_bills_nothing(pictures: Pictures, replicate: FakeReplicate) -> None:
    replicate.refuse_pictures = [402]
    with pytest.raises(CloudboothError, match="402"):
        pictures.make()
    assert [(record.outcome, record.usd) for record in pictures.records] == [(ABSENT, 0.0)]


class InterruptedClock(FakeClock):
    """Ctrl-C comes while somebody waits."""

    def sleep(self, seconds: float) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_cancels_the_one_under_way(pictures: Pictures, replicate: FakeReplicate) -> None:
    replicate.slow_pictures, run = True, pictures.run
    with pytest.raises(KeyboardInterrupt):
        pictures.make(Wiring(run.home, InterruptedClock(run.clock.now()), run.ledger, connect))
    assert [prediction["status"] for prediction in replicate.predictions.values()] == ["canceled"]
    assert [(record.outcome, record.usd) for record in pictures.records] == [("canceled", 0.000975)]


def test_a_run_is_not_forgotten_while_a_picture_of_its_model_may_bill(
    pictures: Pictures, replicate: FakeReplicate
) -> None:
    replicate.slow_pictures, ledger = True, pictures.run.ledger
    asked(pictures.run, pictures.model)
    with pytest.raises(RunConflict, match="is not over"):
        ledger.forget_run("bot", ledger.become_driver("bot"))
