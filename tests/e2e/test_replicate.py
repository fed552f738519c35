"""`launch --provider replicate` as a user types it: no machine is rented, and every verb works all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import PATIENCE_S, PHOTOS, Cloudbooth, wait_until
from tests.fakes.replicate import FakeReplicate, running_replicate


@pytest.fixture
def replicate() -> Iterator[FakeReplicate]:
    with running_replicate(queue_looks=1, work_looks=1) as fake:
        yield fake


@pytest.fixture
def hosted(cloudbooth: Cloudbooth, replicate: FakeReplicate) -> Cloudbooth:
    cloudbooth.environ |= replicate.environ
    return cloudbooth


def launch(hosted: Cloudbooth, name: str, *more: str) -> tuple[str, ...]:
    what = ("launch", str(PHOTOS), "--subject", "sks robot", "--name", name, "--provider", "replicate")
    return (*what, "--steps", "400", "--set", f"output.folder={hosted.models}", *more, "--json")


def test_photos_become_a_model_at_the_services_price_and_the_token_stays_here(
    hosted: Cloudbooth, replicate: FakeReplicate
) -> None:
    done = hosted.run(*launch(hosted, "bot", "--set", "train.min_snr_gamma=5.0"))
    assert (done.summary["reason"], f"{done.summary['cost_usd']:.2f}") == ("done", f"{replicate.billed_usd():.2f}")
    assert (Path(done.summary["output"]) / "bot.safetensors").exists()
    fields = {field["key"]: field for field in done.lines[0]["quote"]["fields"]}
    assert fields["train.steps"]["input"] == "steps"
    assert (fields["train.min_snr_gamma"]["input"], "no such input" in fields["train.min_snr_gamma"]["why"]) == (
        "",
        True,
    )
    files = [file for file in hosted.root.rglob("*") if file.is_file()]
    assert [file for file in files if replicate.token.encode() in file.read_bytes()] == []
    assert replicate.token not in done.stdout + done.stderr
    assert hosted.run("gc", "--json").summary["orphans"] == 0


def test_a_detached_job_is_watched_shown_as_billing_and_ended(hosted: Cloudbooth, replicate: FakeReplicate) -> None:
    replicate.work_looks = 10**6
    hosted.run(*launch(hosted, "bot", "--detach"))
    wait_until(lambda: bool(replicate.trainings) and replicate.only().status == "processing", "the job computes")
    shown = hosted.run("ps", "--json")
    assert shown.lines[0]["may_bill"], "what may bill is shown until its end is confirmed"
    assert "bot" in shown.stderr
    with hosted.started("attach", "bot", "--json") as watching:
        ended = hosted.run("stop", "bot", "--json")
        assert watching.wait(timeout=PATIENCE_S) == 6
    assert ended.summary["reason"] == "stopped"
    assert replicate.only().status == "canceled"
    assert hosted.run("status", "bot", "--json").summary["may_bill"] == []
