"""What Replicate does, and its adapter by itself, against a fake held to the published contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.hosted.archive import UnsafeArchive
from orchestrator.hosted.safetensors_file import DamagedWeights
from orchestrator.lifecycle import EndReason, Standing, State
from orchestrator.storage.api import ObjectStore
from providers.errors import AuthRejected, CloudboothError, QuotaExceeded
from providers.jobs import JobId, JobWish
from providers.registry import ProviderContext
from providers.replicate.client import BASE_URL, ReplicateClient, takes_token
from providers.replicate.provider import ReplicateProvider
from providers.replicate.trainers import TRAINERS
from providers.secret import Secret
from remote_trainer import wire
from tests.fakes.hosted_run import HostedRun
from tests.fakes.replicate import FakeReplicate, tar_of, zip_of

HTML = "<html><h1>503 Service Unavailable</h1></html>"


@pytest.fixture
def run(accepted: HostedRun) -> HostedRun:
    return accepted


# ---- what the service does -------------------------------------------------------------------------------------------


def test_a_failure_is_told_in_the_services_words_and_paid_for(run: HostedRun, replicate: FakeReplicate) -> None:
    replicate.ends_as = "failed"
    assert run.drive() is EndReason.TRAINING_FAILED
    [failed] = [event for event in run.written_events() if isinstance(event, wire.Failed)]
    assert failed.message == replicate.error
    assert run.record.billed_usd == pytest.approx(replicate.billed_usd())


def test_aborted_is_an_end_that_costs_nothing(run: HostedRun, replicate: FakeReplicate) -> None:
    replicate.ends_as = "aborted"
    assert run.drive() is EndReason.TRAINING_FAILED
    assert run.record.billed_usd == 0
    assert "before it began" in next(e.message for e in run.written_events() if isinstance(e, wire.Failed))


def test_a_service_that_is_away_is_asked_again(run: HostedRun, replicate: FakeReplicate) -> None:
    throttled = {"detail": "Request was throttled. Your rate limit resets in ~30s."}
    replicate.refuse_looks = [(503, HTML, {}), (429, throttled, {"Retry-After": "7"}), (502, HTML, {})]
    assert run.drive() is EndReason.DONE


def test_a_submission_that_is_throttled_is_made_later(run: HostedRun, replicate: FakeReplicate) -> None:
    replicate.refuse = [(429, {"detail": "Request was throttled. Your rate limit resets in ~30s.", "status": 429}, {})]
    assert run.drive() is EndReason.DONE
    assert len(replicate.trainings) == 1


def test_a_submission_answered_by_a_proxy_is_looked_for(run: HostedRun, replicate: FakeReplicate) -> None:
    replicate.refuse = [(503, HTML, {})]
    assert run.drive() is EndReason.DONE
    assert len([request for request in replicate.requests if request.startswith("GET /v1/trainings")]) >= 2


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (402, {"title": "Insufficient credit", "detail": "You have insufficient credit", "status": 402}, QuotaExceeded),
        (401, {"title": "Unauthenticated", "detail": "no valid authentication token", "status": 401}, AuthRejected),
    ],
)
def test_no_money_and_no_rights_end_the_attempt_with_nothing_held(
    run: HostedRun, replicate: FakeReplicate, status: int, body: dict[str, Any], error: type[Exception]
) -> None:
    replicate.refuse = [(status, body, {})]
    with pytest.raises(error):
        run.drive()
    assert run.record.standing is Standing.ABSENT
    assert not replicate.trainings


@pytest.mark.parametrize("status", [404, 422])
def test_a_refused_version_ends_the_run_in_the_services_words(
    run: HostedRun, replicate: FakeReplicate, status: int
) -> None:
    replicate.refuse = [
        (status, {"title": "Invalid version or not permitted", "detail": "no trainings", "status": status}, {})
    ]
    assert run.drive() is EndReason.NO_MACHINE
    [said] = [note for note in run.told.notes if "Invalid version or not permitted" in note]
    assert "replicate.com/ostris/flux-dev-lora-trainer/train" in said, "where another version can be found"


def test_weights_that_come_broken_off_are_fetched_again(run: HostedRun, replicate: FakeReplicate) -> None:
    replicate.cut_short = 1
    assert run.drive() is EndReason.DONE


def test_weights_that_are_gone_leave_a_run_that_can_be_driven_again(run: HostedRun, replicate: FakeReplicate) -> None:
    replicate.weights_gone = 1
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
def test_an_archive_that_cannot_be_trusted_writes_nothing(
    run: HostedRun, replicate: FakeReplicate, archive: bytes
) -> None:
    replicate.archive = archive
    with pytest.raises(UnsafeArchive):
        run.drive()
    assert not list(run.folder.rglob("escape.safetensors"))
    assert not run.output.exists()


def test_weights_that_are_not_whole_are_no_model(run: HostedRun, replicate: FakeReplicate) -> None:
    replicate.archive = tar_of({"output/lora.safetensors": b'\x10\0\0\0\0\0\0\0{"a":1}'})
    with pytest.raises(DamagedWeights):
        run.drive()
    assert not run.output.exists()


def test_the_plan_warns_of_a_destination_that_everybody_can_use(run: HostedRun, replicate: FakeReplicate) -> None:
    run.drive()
    assert run.plan().quote.warnings == ()
    replicate.models["photographer/bot"]["visibility"] = "public"
    assert any("photographer/bot is public" in warning.message for warning in run.plan().warnings)


# ---- the provider by itself ------------------------------------------------------------------------------------------


def provider_of(tmp_path: Path, replicate: FakeReplicate, **options: Any) -> ReplicateProvider:
    return ReplicateProvider(ProviderContext(tmp_path, replicate.environ, options))


WISH = JobWish("bot", {"train.steps": 400, "subject.instance_prompt": "a photo of sks robot"})


def test_a_version_that_the_service_does_not_have_is_said_before_anything_is_spent(
    tmp_path: Path, replicate: FakeReplicate
) -> None:
    replicate.unknown_versions = frozenset({TRAINERS["flux-dev-lora"].version})
    with pytest.raises(CloudboothError, match="has no version c6e78d2501e8… of ostris/flux-dev-lora-trainer"):
        provider_of(tmp_path, replicate).quote(WISH)


def test_a_wrong_token_is_an_error_with_the_page_where_one_is_made(tmp_path: Path, replicate: FakeReplicate) -> None:
    environ = replicate.environ | {"REPLICATE_API_TOKEN": "r8_wrong"}
    with pytest.raises(AuthRejected) as caught:
        ReplicateProvider(ProviderContext(tmp_path, environ)).quote(WISH)
    assert "api-tokens" in caught.value.hint
    assert "r8_wrong" not in str(caught.value)


def test_without_a_token_nobody_is_asked(tmp_path: Path) -> None:
    with pytest.raises(AuthRejected, match="REPLICATE_API_TOKEN is not set"):
        ReplicateProvider(ProviderContext(tmp_path, {}))


def test_the_token_shows_in_no_repr(tmp_path: Path, replicate: FakeReplicate) -> None:
    provider = provider_of(tmp_path, replicate)
    shown = repr(provider) + repr(vars(provider)) + repr(vars(provider._client)) + repr(vars(provider._writer))
    assert replicate.token not in shown


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


def test_canceling_twice_or_what_is_over_or_unknown_is_success(run: HostedRun, replicate: FakeReplicate) -> None:
    run.drive()
    job = JobId(replicate.only().id)
    run.provider.cancel(job)
    run.provider.cancel(JobId("unknown"))
    assert replicate.only().status == "succeeded"


def test_a_list_of_many_pages_is_read_to_the_oldest_of_ours_and_no_further(
    run: HostedRun, replicate: FakeReplicate
) -> None:
    run.drive()
    mine = replicate.only()
    for age in range(30):
        asked, created_at = {**mine.input, "input_images": "elsewhere"}, mine.created_at - 48 * 3600 - age
        replicate.trainings[f"other-{age}"] = replace(mine, id=f"other-{age}", input=asked, created_at=created_at)
    replicate.page_size = 5
    replicate.requests.clear()
    assert [job.id for job in run.provider.list(run.record.tag)] == [mine.id]
    assert len(replicate.requests) == 1


def test_a_large_data_set_goes_through_the_users_own_store(
    tmp_path: Path, replicate: FakeReplicate, s3_store: ObjectStore
) -> None:
    run = HostedRun(tmp_path, replicate, store=s3_store, upload_limit_bytes=1000)
    run.accept()
    assert run.drive() is EndReason.DONE
    assert not replicate.files
    assert len(replicate.only().photos) == 12
    assert list(s3_store.objects("jobs/")) == [], "the photos are removed from the store"


def test_the_replicate_package_itself_runs_against_the_fake(replicate: FakeReplicate, tmp_path: Path) -> None:
    import replicate as package

    client = package.Client(api_token=replicate.token, base_url=replicate.url)
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
