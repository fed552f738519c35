"""Replicate's adapter, and a run that is driven over it, against a fake held to the published contract."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from orchestrator.budget import cost_usd
from orchestrator.hosted.archive import UnsafeArchive
from orchestrator.hosted.bills import JobsAsBills
from orchestrator.hosted.safetensors_file import DamagedWeights, read_header
from orchestrator.latecomers import give_back_latecomers, latecomers
from orchestrator.lifecycle import EndReason, Standing, State, Wish
from orchestrator.storage.api import ObjectStore
from providers.errors import AuthRejected, CloudboothError, MachineGone, QuotaExceeded
from providers.jobs import JobId, JobWish
from providers.registry import ProviderContext
from providers.replicate.client import BASE_URL, ReplicateClient, takes_token
from providers.replicate.provider import ReplicateProvider
from providers.replicate.trainers import TRAINERS
from providers.secret import Secret
from remote_trainer import wire
from tests.fakes.hosted_run import HostedRun
from tests.fakes.replicate import FakeReplicate, running_replicate, tar_of, zip_of

HTML = "<html><h1>503 Service Unavailable</h1></html>"


@pytest.fixture
def fake() -> Iterator[FakeReplicate]:
    with running_replicate() as fake:
        yield fake


@pytest.fixture
def run(tmp_path: Path, fake: FakeReplicate) -> HostedRun:
    """Accepted, with nothing submitted yet."""
    accepted = HostedRun(tmp_path, fake)
    accepted.accept()
    return accepted


def submitted_once(fake: FakeReplicate) -> bool:
    return len(fake.trainings) == 1


# ---- a run from its photos to its model ------------------------------------------------------------------------------


def test_a_run_ends_with_a_verified_model_and_costs_what_the_service_counts(
    run: HostedRun, fake: FakeReplicate
) -> None:
    assert run.drive() is EndReason.DONE
    manifest = wire.Manifest.from_bytes((run.output / "manifest.json").read_bytes())
    assert [artifact.manifest_sha256 for artifact in run.ledger.artifacts("bot")] == [manifest.sha256]
    tensors, _, _ = read_header(run.output / "bot.safetensors")
    assert all(name.startswith("transformer.") for name in tensors)
    assert f"{cost_usd(run.ledger.machines('bot'), run.clock.now()):.2f}" == f"{fake.billed_usd():.2f}" == "0.77"


def test_the_models_card_is_yaml_whatever_the_prompt_says(tmp_path: Path, fake: FakeReplicate) -> None:
    prompt = 'a "photo" of sks\'s robot \\o/: ä'
    run = HostedRun(tmp_path, fake, (f"subject.instance_prompt={json.dumps(prompt)}",))
    run.accept()
    run.drive()
    front = (run.output / "README.md").read_text("utf-8").split("---\n")[1]
    assert yaml.safe_load(front)["instance_prompt"] == prompt


def test_the_trainer_reads_every_photo_with_a_caption_beside_it(run: HostedRun, fake: FakeReplicate) -> None:
    run.drive()
    photos = [name for name in fake.only().photos if name.endswith(".png")]
    assert len(photos) == 6
    assert sorted(fake.only().photos) == sorted([*photos, *(name.replace(".png", ".txt") for name in photos)])


@pytest.mark.parametrize("ends_as", ["succeeded", "failed"])
def test_the_photos_do_not_stay_at_the_service(run: HostedRun, fake: FakeReplicate, ends_as: str) -> None:
    fake.ends_as = ends_as
    run.drive()
    assert len(fake.only().photos) == 12
    assert not fake.files


@pytest.mark.parametrize("status", [402, 422])
def test_photos_of_a_job_that_was_refused_do_not_stay_either(run: HostedRun, fake: FakeReplicate, status: int) -> None:
    fake.refuse = [(status, {"detail": "no", "status": status}, {})]
    with suppress(QuotaExceeded):
        run.drive()
    assert not fake.trainings
    assert "POST /v1/files" in fake.requests
    assert not fake.files


def test_a_store_keeps_no_photos_of_a_request_that_never_arrived(
    tmp_path: Path, fake: FakeReplicate, s3_store: ObjectStore
) -> None:
    run = HostedRun(tmp_path, fake, ("limits.max_cost_usd=1.5",), store=s3_store, upload_limit_bytes=1000)
    run.accept()
    fake.lose_requests = 1
    assert run.drive() is EndReason.NO_MACHINE
    assert list(s3_store.objects("jobs/")) == []


def test_a_destination_that_is_new_is_private_and_one_that_exists_is_used(run: HostedRun, fake: FakeReplicate) -> None:
    run.drive()
    assert fake.models["photographer/bot"]["visibility"] == "private"
    assert run.plan().quote.destination_exists
    assert fake.requests.count("POST /v1/models") == 1


def test_the_log_becomes_events_each_once(run: HostedRun, fake: FakeReplicate) -> None:
    fake.work_looks = 4
    run.drive()
    steps = [event.step for event in run.written_events() if isinstance(event, wire.StepDone)]
    assert steps == [100, 200, 300, 400]
    assert run.written_events() == run.told.events
    assert run.home.run("bot").trainer_log.read_text() == fake.only().logs


def test_queueing_is_free(run: HostedRun, fake: FakeReplicate) -> None:
    fake.queue_looks = 100
    run.drive()
    assert f"{cost_usd(run.ledger.machines('bot'), run.clock.now()):.2f}" == "0.77"


def test_every_trainers_output_becomes_a_lora(tmp_path: Path, fake: FakeReplicate) -> None:
    for name in TRAINERS:
        run = HostedRun(tmp_path / name, fake, (f"compute.replicate.trainer={name}", "train.steps=500"))
        run.fake.trainings.clear()
        run.accept()
        assert run.drive() is EndReason.DONE, name
        tensors, _, _ = read_header(run.output / "bot.safetensors")
        assert all(tensor.endswith((".lora_A.weight", ".lora_B.weight")) for tensor in tensors)


# ---- lost answers and killed drivers ---------------------------------------------------------------------------------


def test_a_lost_answer_is_settled_by_the_list_and_nothing_is_submitted_twice(
    run: HostedRun, fake: FakeReplicate
) -> None:
    fake.lose_answers, fake.hidden = 1, 2
    assert run.drive() is EndReason.DONE
    assert submitted_once(fake)


def test_a_job_that_was_over_before_its_answer_was_settled_is_fetched(run: HostedRun, fake: FakeReplicate) -> None:
    fake.lose_answers, fake.hidden, fake.queue_looks, fake.work_looks = 1, 3, 0, 0
    assert run.drive() is EndReason.DONE
    assert submitted_once(fake)


def test_a_request_that_never_arrived_is_made_again_only_when_absence_is_certain(
    run: HostedRun, fake: FakeReplicate
) -> None:
    fake.lose_requests = 1
    assert run.drive() is EndReason.DONE
    assert submitted_once(fake)
    assert [machine.standing for machine in run.ledger.machines("bot")] == [Standing.ABSENT, Standing.ABSENT]
    first, second = run.ledger.machines("bot")
    assert second.intent_at - first.intent_at >= 180


def test_a_job_that_nobody_saw_before_it_was_over_is_on_the_bill(tmp_path: Path, fake: FakeReplicate) -> None:
    run = HostedRun(tmp_path, fake, ("limits.max_cost_usd=1.5",))
    run.accept()
    fake.lose_answers, fake.hidden = 1, 10**6
    assert run.drive() is EndReason.NO_MACHINE, "while the first may exist, the ceiling pays for no second"
    fake.hidden = 0
    while not fake.only().is_over:
        fake.look(fake.only())
    run.clock.sleep(3 * 3600)
    unseen = latecomers(run.ledger.machines("bot"), run.clock.now())
    give_back_latecomers(JobsAsBills(run.provider), run.ledger, unseen, run.told.note)
    assert fake.billed_usd() > 0
    assert cost_usd(run.ledger.machines("bot"), run.clock.now()) == pytest.approx(fake.billed_usd())
    assert run.record.standing is Standing.ABSENT
    assert "has cost $0.77" in run.told.notes[-1]
    assert latecomers(run.ledger.machines("bot"), run.clock.now()) == [], "it is told once"


def test_a_lost_answer_is_found_by_a_laptop_whose_clock_is_half_a_day_ahead(
    tmp_path: Path, fake: FakeReplicate
) -> None:
    run = HostedRun(tmp_path, fake)
    run.accept()
    fake.now = lambda: run.clock.now() - 12 * 3600
    fake.lose_answers = 1
    assert run.drive() is EndReason.DONE
    assert submitted_once(fake)


class _KilledError(Exception):
    pass


def _kill_at(run: HostedRun, moment: Callable[[wire.Event], bool]) -> None:
    def event(envelope: wire.Envelope, _progress: Any) -> None:
        if moment(envelope.event):
            raise _KilledError

    run.told.event = event  # type: ignore[method-assign]


def test_another_driver_goes_on_where_one_was_killed(run: HostedRun, fake: FakeReplicate) -> None:
    fake.work_looks = 4
    _kill_at(run, lambda event: isinstance(event, wire.StepDone) and event.step == 200)
    with pytest.raises(_KilledError):
        run.drive()
    assert run.run.state is State.TRAINING
    del run.told.event
    assert run.drive() is EndReason.DONE
    assert submitted_once(fake)
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
    run: HostedRun, fake: FakeReplicate, wish: Wish, reason: EndReason
) -> None:
    endless(run, lambda: run.ledger.set_wish("bot", wish))
    assert run.drive() is reason
    assert fake.only().status == "canceled"
    assert run.record.standing is Standing.ABSENT
    assert cost_usd(run.ledger.machines("bot"), run.clock.now()) == pytest.approx(fake.billed_usd(), abs=0.005)


def test_a_job_that_was_done_before_stop_reached_it_comes_home(run: HostedRun, fake: FakeReplicate) -> None:
    fake.done_before_cancel = True
    endless(run, lambda: run.ledger.set_wish("bot", Wish.STOP))
    assert run.drive() is EndReason.STOPPED
    assert (run.output / "bot.safetensors").exists()


def test_the_job_is_canceled_at_the_ceiling(tmp_path: Path, fake: FakeReplicate) -> None:
    quick = {"trainers": {"flux-dev-lora": {"fixed_s": [1, 2, 3], "step_s": [0.01, 0.01, 0.01]}}}
    run = HostedRun(tmp_path, fake, ("limits.max_cost_usd=0.05",), quick)
    run.accept()
    fake.work_looks = 10**6
    assert run.drive() is EndReason.STOPPED
    assert fake.only().status == "canceled"
    assert 0.05 <= fake.billed_usd() <= 0.055


def test_resume_submits_anew_within_what_is_left(run: HostedRun, fake: FakeReplicate) -> None:
    fake.ends_as = "failed"
    assert run.drive() is EndReason.TRAINING_FAILED
    fake.ends_as = "succeeded"
    run.ledger.start_attempt("bot", run.ledger.become_driver("bot"))
    assert run.drive() is EndReason.DONE
    assert len(fake.trainings) == 2
    assert cost_usd(run.ledger.machines("bot"), run.clock.now()) == pytest.approx(fake.billed_usd(), abs=0.005)


# ---- what the service does -------------------------------------------------------------------------------------------


def test_a_failure_is_told_in_the_services_words_and_paid_for(run: HostedRun, fake: FakeReplicate) -> None:
    fake.ends_as = "failed"
    assert run.drive() is EndReason.TRAINING_FAILED
    [failed] = [event for event in run.written_events() if isinstance(event, wire.Failed)]
    assert failed.message == fake.error
    assert run.record.billed_usd == pytest.approx(fake.billed_usd())


def test_aborted_is_an_end_that_costs_nothing(run: HostedRun, fake: FakeReplicate) -> None:
    fake.ends_as = "aborted"
    assert run.drive() is EndReason.TRAINING_FAILED
    assert run.record.billed_usd == 0
    assert "before it began" in next(e.message for e in run.written_events() if isinstance(e, wire.Failed))


def test_a_service_that_is_away_is_asked_again(run: HostedRun, fake: FakeReplicate) -> None:
    throttled = {"detail": "Request was throttled. Your rate limit resets in ~30s."}
    fake.refuse_looks = [(503, HTML, {}), (429, throttled, {"Retry-After": "7"}), (502, HTML, {})]
    assert run.drive() is EndReason.DONE


def test_a_submission_that_is_throttled_is_made_later(run: HostedRun, fake: FakeReplicate) -> None:
    fake.refuse = [(429, {"detail": "Request was throttled. Your rate limit resets in ~30s.", "status": 429}, {})]
    assert run.drive() is EndReason.DONE
    assert submitted_once(fake)


def test_a_submission_answered_by_a_proxy_is_looked_for(run: HostedRun, fake: FakeReplicate) -> None:
    fake.refuse = [(503, HTML, {})]
    assert run.drive() is EndReason.DONE
    assert len([request for request in fake.requests if request.startswith("GET /v1/trainings")]) >= 2


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (402, {"title": "Insufficient credit", "detail": "You have insufficient credit", "status": 402}, QuotaExceeded),
        (401, {"title": "Unauthenticated", "detail": "no valid authentication token", "status": 401}, AuthRejected),
    ],
)
def test_no_money_and_no_rights_end_the_attempt_with_nothing_held(
    run: HostedRun, fake: FakeReplicate, status: int, body: dict[str, Any], error: type[Exception]
) -> None:
    fake.refuse = [(status, body, {})]
    with pytest.raises(error):
        run.drive()
    assert run.record.standing is Standing.ABSENT
    assert not fake.trainings


@pytest.mark.parametrize("status", [404, 422])
def test_a_refused_version_ends_the_run_in_the_services_words(run: HostedRun, fake: FakeReplicate, status: int) -> None:
    fake.refuse = [
        (status, {"title": "Invalid version or not permitted", "detail": "no trainings", "status": status}, {})
    ]
    assert run.drive() is EndReason.NO_MACHINE
    [said] = [note for note in run.told.notes if "Invalid version or not permitted" in note]
    assert "replicate.com/ostris/flux-dev-lora-trainer/train" in said, "where another version can be found"


def test_weights_that_come_broken_off_are_fetched_again(run: HostedRun, fake: FakeReplicate) -> None:
    fake.cut_short = 1
    assert run.drive() is EndReason.DONE


def test_weights_that_are_gone_leave_a_run_that_can_be_driven_again(run: HostedRun, fake: FakeReplicate) -> None:
    fake.weights_gone = 1
    with pytest.raises(CloudboothError, match="404"):
        run.drive()
    assert (run.run.state, run.record.standing) == (State.RETRIEVING, Standing.ABSENT)
    assert run.drive() is EndReason.DONE


BAD_ARCHIVES = {
    "a name that leads elsewhere": tar_of({"../../escape.safetensors": b"x"}),
    "an absolute name": zip_of({"/escape.safetensors": b"x"}),
    "no archive": b"<html>expired</html>",
}


@pytest.mark.parametrize("archive", BAD_ARCHIVES.values(), ids=list(BAD_ARCHIVES))
def test_an_archive_that_cannot_be_trusted_writes_nothing(run: HostedRun, fake: FakeReplicate, archive: bytes) -> None:
    fake.archive = archive
    with pytest.raises(UnsafeArchive):
        run.drive()
    assert not list(run.folder.rglob("escape.safetensors"))
    assert not run.output.exists()


def test_weights_that_are_not_whole_are_no_model(run: HostedRun, fake: FakeReplicate) -> None:
    fake.archive = tar_of({"output/lora.safetensors": b'\x10\0\0\0\0\0\0\0{"a":1}'})
    with pytest.raises(DamagedWeights):
        run.drive()
    assert not run.output.exists()


def test_the_plan_warns_of_a_destination_that_everybody_can_use(run: HostedRun, fake: FakeReplicate) -> None:
    run.drive()
    assert run.plan().quote.warnings == ()
    fake.models["photographer/bot"]["visibility"] = "public"
    assert any("photographer/bot is public" in warning.message for warning in run.plan().warnings)


# ---- the provider by itself ------------------------------------------------------------------------------------------


def provider_of(tmp_path: Path, fake: FakeReplicate, **options: Any) -> ReplicateProvider:
    return ReplicateProvider(ProviderContext(tmp_path, fake.environ, options))


WISH = JobWish("bot", {"train.steps": 400, "subject.instance_prompt": "a photo of sks robot"})


def test_a_version_that_the_service_does_not_have_is_said_before_anything_is_spent(
    tmp_path: Path, fake: FakeReplicate
) -> None:
    fake.unknown_versions = frozenset({TRAINERS["flux-dev-lora"].version})
    with pytest.raises(CloudboothError, match="has no version c6e78d2501e8… of ostris/flux-dev-lora-trainer"):
        provider_of(tmp_path, fake).quote(WISH)


def test_a_wrong_token_is_an_error_with_the_page_where_one_is_made(tmp_path: Path, fake: FakeReplicate) -> None:
    environ = fake.environ | {"REPLICATE_API_TOKEN": "r8_wrong"}
    with pytest.raises(AuthRejected) as caught:
        ReplicateProvider(ProviderContext(tmp_path, environ)).quote(WISH)
    assert "api-tokens" in caught.value.hint
    assert "r8_wrong" not in str(caught.value)


def test_without_a_token_nobody_is_asked(tmp_path: Path) -> None:
    with pytest.raises(AuthRejected, match="REPLICATE_API_TOKEN is not set"):
        ReplicateProvider(ProviderContext(tmp_path, {}))


def test_the_token_shows_in_no_repr(tmp_path: Path, fake: FakeReplicate) -> None:
    provider = provider_of(tmp_path, fake)
    shown = repr(provider) + repr(vars(provider)) + repr(vars(provider._client)) + repr(vars(provider._writer))
    assert fake.token not in shown


@pytest.mark.parametrize(
    ("url", "base_url", "when_refused"),
    [
        ("https://replicate.delivery/xezq/trained_model.tar", BASE_URL, True),
        ("https://tjzk.replicate.delivery/a.png", BASE_URL, True),
        ("http://replicate.delivery/a.png", BASE_URL, False),
        ("https://replicate.delivery.example.com/a.png", BASE_URL, False),
        ("https://notreplicate.delivery/a.png", BASE_URL, False),
        ("https://replicate.delivery@example.com/a.png", BASE_URL, False),
        ("https://replicate.delivery/a.png", "http://127.0.0.1:8000", False),
        ("https://storage.example.com/a.png", BASE_URL, False),
    ],
)
def test_the_token_goes_to_a_host_of_the_services_files_only_when_it_refuses_without(
    url: str, base_url: str, when_refused: bool
) -> None:
    assert takes_token(url, base_url) is False
    assert takes_token(url, base_url, refused=True) is when_refused


@pytest.mark.parametrize("wants_it", [False, True])
def test_a_file_is_asked_for_without_the_token_first(tmp_path: Path, wants_it: bool) -> None:
    shown = list[str | None]()

    def delivery(request: httpx.Request) -> httpx.Response:
        shown.append(request.headers.get("Authorization"))
        return httpx.Response(401 if wants_it and shown[-1] is None else 200, content=b"weights")

    client = ReplicateClient(Secret("r8_0123", "REPLICATE_API_TOKEN"), transport=httpx.MockTransport(delivery))
    client.download("https://replicate.delivery/a.tar", tmp_path / "a.tar", lambda _done, _total: None)
    assert (tmp_path / "a.tar").read_bytes() == b"weights"
    assert shown == ([None, "Bearer r8_0123"] if wants_it else [None])


def test_the_token_always_goes_to_the_api() -> None:
    assert takes_token("https://api.replicate.com/v1/files/x", BASE_URL)


def test_canceling_twice_or_what_is_over_or_unknown_is_success(run: HostedRun, fake: FakeReplicate) -> None:
    run.drive()
    job = JobId(fake.only().id)
    run.provider.cancel(job)
    run.provider.cancel(JobId("unknown"))
    assert fake.only().status == "succeeded"


def test_a_list_of_many_pages_is_read_to_the_oldest_of_ours_and_no_further(run: HostedRun, fake: FakeReplicate) -> None:
    run.drive()
    mine = fake.only()
    for age in range(30):
        asked, created_at = {**mine.input, "input_images": "elsewhere"}, mine.created_at - 48 * 3600 - age
        fake.trainings[f"other-{age}"] = replace(mine, id=f"other-{age}", input=asked, created_at=created_at)
    fake.page_size = 5
    fake.requests.clear()
    assert [job.id for job in run.provider.list(run.record.tag)] == [mine.id]
    assert len(fake.requests) == 1


def test_for_those_who_look_for_bills_a_job_that_is_over_is_gone(run: HostedRun, fake: FakeReplicate) -> None:
    fake.work_looks = 10**6
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


def test_a_large_data_set_goes_through_the_users_own_store(
    tmp_path: Path, fake: FakeReplicate, s3_store: ObjectStore
) -> None:
    run = HostedRun(tmp_path, fake, store=s3_store, upload_limit_bytes=1000)
    run.accept()
    assert run.drive() is EndReason.DONE
    assert not fake.files
    assert len(fake.only().photos) == 12
    assert list(s3_store.objects("jobs/")) == [], "the photos are removed from the store"


def test_the_replicate_package_itself_runs_against_the_fake(fake: FakeReplicate, tmp_path: Path) -> None:
    import replicate

    client = replicate.Client(api_token=fake.token, base_url=fake.url)
    dataset = tmp_path / "photos.zip"
    dataset.write_bytes(zip_of({"000.png": b"", "000.txt": b"a photo of sks robot"}))
    trainer = TRAINERS["flux-dev-lora"]
    url = client.files.create(dataset).urls["get"]
    model = client.models.create(owner="photographer", name="dog", visibility="private", hardware="gpu-l40s")
    training = client.trainings.create(
        model=trainer.name, version=trainer.version, destination=f"{model.owner}/{model.name}",
        input={"input_images": url, "steps": 10},
    )  # fmt: skip
    while training.status not in ("succeeded", "failed", "canceled"):
        training.reload()
    assert training.output["version"].startswith("photographer/dog:")
    assert client.trainings.list().results[0].id == training.id
    prediction = client.models.predictions.create("black-forest-labs/flux-dev-lora", input={"prompt": "sks dog"})
    prediction.reload()
    assert prediction.status == "succeeded"
