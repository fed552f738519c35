"""A run that is driven over Replicate's adapter, against a fake held to the published contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.budget import cost_usd
from orchestrator.hosted.bills import JobsAsBills
from orchestrator.hosted.safetensors_file import read_header
from orchestrator.latecomers import give_back_latecomers, latecomers
from orchestrator.lifecycle import EndReason, Standing, State, Wish
from orchestrator.storage.api import ObjectStore
from providers.errors import MachineGone, QuotaExceeded
from providers.replicate.trainers import TRAINERS
from remote_trainer import wire
from tests.fakes.hosted_run import HostedRun
from tests.fakes.replicate import FakeReplicate


@pytest.fixture
def run(accepted: HostedRun) -> HostedRun:
    return accepted


# ---- a run from its photos to its model ------------------------------------------------------------------------------


def test_a_run_ends_with_a_verified_model_and_costs_what_the_service_counts(
    run: HostedRun, replicate: FakeReplicate
) -> None:
    assert run.drive() is EndReason.DONE
    manifest = wire.Manifest.from_bytes((run.output / "manifest.json").read_bytes())
    assert [artifact.manifest_sha256 for artifact in run.ledger.artifacts("bot")] == [manifest.sha256]
    tensors, _, _ = read_header(run.output / "bot.safetensors")
    assert all(name.startswith("transformer.") for name in tensors)
    assert f"{cost_usd(run.ledger.machines('bot'), run.clock.now()):.2f}" == f"{replicate.billed_usd():.2f}" == "0.77"


def test_the_models_card_is_yaml_whatever_the_prompt_says(tmp_path: Path, replicate: FakeReplicate) -> None:
    prompt = 'a "photo" of sks\'s robot \\o/: ä'
    run = HostedRun(tmp_path, replicate, (f"subject.instance_prompt={json.dumps(prompt)}",))
    run.accept()
    run.drive()
    front = (run.output / "README.md").read_text("utf-8").split("---\n")[1]
    assert yaml.safe_load(front)["instance_prompt"] == prompt


def test_the_trainer_reads_every_photo_with_a_caption_beside_it(run: HostedRun, replicate: FakeReplicate) -> None:
    run.drive()
    photos = [name for name in replicate.only().photos if name.endswith(".png")]
    assert len(photos) == 6
    assert sorted(replicate.only().photos) == sorted([*photos, *(name.replace(".png", ".txt") for name in photos)])


@pytest.mark.parametrize("ends_as", ["succeeded", "failed"])
def test_the_photos_do_not_stay_at_the_service(run: HostedRun, replicate: FakeReplicate, ends_as: str) -> None:
    replicate.ends_as = ends_as
    run.drive()
    assert len(replicate.only().photos) == 12
    assert not replicate.files


@pytest.mark.parametrize("status", [402, 422])
def test_photos_of_a_job_that_was_refused_do_not_stay_either(
    run: HostedRun, replicate: FakeReplicate, status: int
) -> None:
    replicate.refuse = [(status, {"detail": "no", "status": status}, {})]
    with suppress(QuotaExceeded):
        run.drive()
    assert not replicate.trainings
    assert "POST /v1/files" in replicate.requests
    assert not replicate.files


def test_a_store_keeps_no_photos_of_a_request_that_never_arrived(
    tmp_path: Path, replicate: FakeReplicate, s3_store: ObjectStore
) -> None:
    run = HostedRun(tmp_path, replicate, ("limits.max_cost_usd=1.5",), store=s3_store, upload_limit_bytes=1000)
    run.accept()
    replicate.lose_requests = 1
    assert run.drive() is EndReason.NO_MACHINE
    assert list(s3_store.objects("jobs/")) == []


def test_a_destination_that_is_new_is_private_and_one_that_exists_is_used(
    run: HostedRun, replicate: FakeReplicate
) -> None:
    run.drive()
    assert replicate.models["photographer/bot"]["visibility"] == "private"
    assert run.plan().quote.destination_exists
    assert replicate.requests.count("POST /v1/models") == 1


def test_the_log_becomes_events_each_once(run: HostedRun, replicate: FakeReplicate) -> None:
    replicate.work_looks = 4
    run.drive()
    steps = [event.step for event in run.written_events() if isinstance(event, wire.StepDone)]
    assert steps == [100, 200, 300, 400]
    assert run.written_events() == run.told.events
    assert run.home.run("bot").trainer_log.read_text() == replicate.only().logs


def test_queueing_is_free(run: HostedRun, replicate: FakeReplicate) -> None:
    replicate.queue_looks = 100
    run.drive()
    assert f"{cost_usd(run.ledger.machines('bot'), run.clock.now()):.2f}" == "0.77"


def test_every_trainers_output_becomes_a_lora(tmp_path: Path, replicate: FakeReplicate) -> None:
    for name in TRAINERS:
        run = HostedRun(tmp_path / name, replicate, (f"compute.replicate.trainer={name}", "train.steps=500"))
        run.fake.trainings.clear()
        run.accept()
        assert run.drive() is EndReason.DONE, name
        tensors, _, _ = read_header(run.output / "bot.safetensors")
        assert all(tensor.endswith((".lora_A.weight", ".lora_B.weight")) for tensor in tensors)


# ---- lost answers and killed drivers ---------------------------------------------------------------------------------


def test_a_lost_answer_is_settled_by_the_list_and_nothing_is_submitted_twice(
    run: HostedRun, replicate: FakeReplicate
) -> None:
    replicate.lose_answers, replicate.hidden = 1, 2
    assert run.drive() is EndReason.DONE
    assert len(replicate.trainings) == 1


def test_a_job_that_was_over_before_its_answer_was_settled_is_fetched(run: HostedRun, replicate: FakeReplicate) -> None:
    replicate.lose_answers, replicate.hidden, replicate.queue_looks, replicate.work_looks = 1, 3, 0, 0
    assert run.drive() is EndReason.DONE
    assert len(replicate.trainings) == 1


def test_a_request_that_never_arrived_is_made_again_only_when_absence_is_certain(
    run: HostedRun, replicate: FakeReplicate
) -> None:
    replicate.lose_requests = 1
    assert run.drive() is EndReason.DONE
    assert len(replicate.trainings) == 1
    assert [machine.standing for machine in run.ledger.machines("bot")] == [Standing.ABSENT, Standing.ABSENT]
    first, second = run.ledger.machines("bot")
    assert second.intent_at - first.intent_at >= 180


def test_a_job_that_nobody_saw_before_it_was_over_is_on_the_bill(tmp_path: Path, replicate: FakeReplicate) -> None:
    run = HostedRun(tmp_path, replicate, ("limits.max_cost_usd=1.5",))
    run.accept()
    replicate.lose_answers, replicate.hidden = 1, 10**6
    assert run.drive() is EndReason.NO_MACHINE, "while the first may exist, the ceiling pays for no second"
    replicate.hidden = 0
    while not replicate.only().is_over:
        replicate.look(replicate.only())
    run.clock.sleep(3 * 3600)
    unseen = latecomers(run.ledger.machines("bot"), run.clock.now())
    give_back_latecomers(JobsAsBills(run.provider), run.ledger, unseen, run.told.note)
    assert replicate.billed_usd() > 0
    assert cost_usd(run.ledger.machines("bot"), run.clock.now()) == pytest.approx(replicate.billed_usd())
    assert run.record.standing is Standing.ABSENT
    assert "has cost $0.77" in run.told.notes[-1]
    assert latecomers(run.ledger.machines("bot"), run.clock.now()) == [], "it is told once"


def test_a_lost_answer_is_found_by_a_laptop_whose_clock_is_half_a_day_ahead(
    tmp_path: Path, replicate: FakeReplicate
) -> None:
    run = HostedRun(tmp_path, replicate)
    run.accept()
    replicate.now = lambda: run.clock.now() - 12 * 3600
    replicate.lose_answers = 1
    assert run.drive() is EndReason.DONE
    assert len(replicate.trainings) == 1


class _KilledError(Exception):
    pass


def _kill_at(run: HostedRun, moment: Callable[[wire.Event], bool]) -> None:
    def event(envelope: wire.Envelope, _progress: Any) -> None:
        if moment(envelope.event):
            raise _KilledError

    run.told.event = event  # type: ignore[method-assign]


def test_another_driver_goes_on_where_one_was_killed(run: HostedRun, replicate: FakeReplicate) -> None:
    replicate.work_looks = 4
    _kill_at(run, lambda event: isinstance(event, wire.StepDone) and event.step == 200)
    with pytest.raises(_KilledError):
        run.drive()
    assert run.run.state is State.TRAINING
    del run.told.event
    assert run.drive() is EndReason.DONE
    assert len(replicate.trainings) == 1
    assert [e.step for e in run.written_events() if isinstance(e, wire.StepDone)] == [100, 200, 300, 400]


# ---- ending it -------------------------------------------------------------------------------------------------------


def endless(run: HostedRun, then: Callable[[], object]) -> None:
    """A job that goes on for ever; `then` happens once it computes."""
    run.fake.work_looks = 10**6
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        type(run.clock).sleep(run.clock, seconds)
        if looks == 12:
            then()

    run.clock.sleep = sleep  # type: ignore[method-assign]


@pytest.mark.parametrize(("wish", "reason"), [(Wish.STOP, EndReason.STOPPED), (Wish.DOWN, EndReason.CANCELED)])
def test_stop_and_down_cancel_and_pay_for_what_was_computed(
    run: HostedRun, replicate: FakeReplicate, wish: Wish, reason: EndReason
) -> None:
    endless(run, lambda: run.ledger.set_wish("bot", wish))
    assert run.drive() is reason
    assert replicate.only().status == "canceled"
    assert run.record.standing is Standing.ABSENT
    assert cost_usd(run.ledger.machines("bot"), run.clock.now()) == pytest.approx(replicate.billed_usd(), abs=0.005)


def test_a_job_that_was_done_before_stop_reached_it_comes_home(run: HostedRun, replicate: FakeReplicate) -> None:
    replicate.done_before_cancel = True
    endless(run, lambda: run.ledger.set_wish("bot", Wish.STOP))
    assert run.drive() is EndReason.STOPPED
    assert (run.output / "bot.safetensors").exists()


def test_the_job_is_canceled_at_the_ceiling(tmp_path: Path, replicate: FakeReplicate) -> None:
    quick = {"trainers": {"flux-dev-lora": {"fixed_s": [1, 2, 3], "step_s": [0.01, 0.01, 0.01]}}}
    run = HostedRun(tmp_path, replicate, ("limits.max_cost_usd=0.05",), quick)
    run.accept()
    replicate.work_looks = 10**6
    assert run.drive() is EndReason.STOPPED
    assert replicate.only().status == "canceled"
    assert 0.05 <= replicate.billed_usd() <= 0.055


def test_resume_submits_anew_within_what_is_left(run: HostedRun, replicate: FakeReplicate) -> None:
    replicate.ends_as = "failed"
    assert run.drive() is EndReason.TRAINING_FAILED
    replicate.ends_as = "succeeded"
    run.ledger.start_attempt("bot", run.ledger.become_driver("bot"))
    assert run.drive() is EndReason.DONE
    assert len(replicate.trainings) == 2
    assert cost_usd(run.ledger.machines("bot"), run.clock.now()) == pytest.approx(replicate.billed_usd(), abs=0.005)


def test_for_those_who_look_for_bills_a_job_that_is_over_is_gone(run: HostedRun, replicate: FakeReplicate) -> None:
    replicate.work_looks = 10**6
    _kill_at(run, lambda event: isinstance(event, wire.PhaseStarted) and event.name == "train")
    with pytest.raises(_KilledError):
        run.drive()
    bills = JobsAsBills(run.provider)
    [listed] = bills.list(run.record.tag[:5])
    assert (listed.tag, bills.describe(listed.id).status_text) == (run.record.tag, "processing")
    bills.release(listed.id)
    assert bills.list(run.record.tag) == []
    with pytest.raises(MachineGone):
        bills.describe(listed.id)
