"""A launch at Vast.ai: photos in, a machine rented and trained on, the model home, the machine gone, the bill right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require_pods
from tests.e2e.command import PATIENCE_S, Cloudbooth, Finished, processes_naming, wait_until
from tests.e2e.test_main_job import SUBJECT
from tests.e2e.weights import weights_sha256
from tests.fakes.pod import Pod
from tests.fakes.vast import FakeVast, Host, Rental, running_vast

CHECKPOINT = 10
STEPS = (
    "--steps", "50", "--set", f"train.checkpoint_every={CHECKPOINT}", "--set", "train.gradient_accumulation=4",
)  # fmt: skip
"""Slow enough that a machine that has just told of its first checkpoint cannot have finished a few seconds later."""
DEAR = ("--max-cost", "60")
"""A cent a second, so that a bill to the cent says something: the ceiling has to allow for it."""


@contextlib.contextmanager
def installed_beside_vast(folder: Path) -> Iterator[tuple[Cloudbooth, FakeVast]]:
    """A laptop with a key, and the market that it opens."""
    require_pods()
    fake = FakeVast(pods=folder / "pods", boot_s=0.5)
    fake.hosts = [Host(number, dph_base=36.0 + number, min_bid=24.0 + number) for number in (1, 2, 3)]
    (folder / "installation").mkdir()
    with running_vast(fake):
        laptop = Cloudbooth(folder / "installation")
        laptop.environ = {"VAST_API_KEY": fake.account_key, "VAST_URL": fake.url, "HOME": str(folder)}
        laptop.machine = ("--set", "compute.provider=vast", "--set", "compute.allow_cpu=true", *DEAR, "--yes")
        yield laptop, fake
    assert fake.violations == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cloudbooth, FakeVast, Finished]]:
    """A machine on demand that nobody takes away; only the answer to its order was lost, and it showed late."""
    with installed_beside_vast(tmp_path_factory.mktemp("undisturbed")) as (laptop, vast):
        vast.lose_creates, vast.visible_after_s = 1, 4.0
        vast.enforce_rates = True
        yield laptop, vast, laptop.run(*laptop.launch_argv("dog", "--on-demand", *STEPS, photos=SUBJECT))


def assert_nothing_is_left(vast: FakeVast, laptop: Cloudbooth, done: Finished) -> None:
    """No machine, a bill as the service has it, and the account key nowhere but in our environment."""
    assert vast.living() == []
    assert done.summary["cost_usd"] == pytest.approx(vast.billed_usd(), abs=0.005)
    assert processes_naming(str(vast.pods)) == []
    for folder in (vast.pods, laptop.root):
        assert files_holding(folder, vast.account_key) == []
    assert vast.account_key not in done.stdout + done.stderr


def files_holding(folder: Path | None, text: str) -> list[Path]:
    assert folder is not None
    own = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in own if text.encode() in path.read_bytes()]


def pod_of(rental: Rental) -> Pod:
    assert rental.pod is not None
    return rental.pod


def has_told_of_a_checkpoint(rentals: list[Rental]) -> bool:
    logs = [log for rental in rentals for log in pod_of(rental).volume.glob("cloudbooth/runs/*/events.jsonl")]
    return any('"type": "checkpoint"' in log.read_text() for log in logs)


def steps_after_last_hello(laptop: Cloudbooth) -> list[int]:
    events = laptop.events("dog")
    last = max(number for number, event in enumerate(events) if event["type"] == "hello")
    return [event["step"] for event in events[last:] if event["type"] == "step"]


def test_an_order_whose_answer_is_lost_is_found_late_and_trained_on(
    undisturbed: tuple[Cloudbooth, FakeVast, Finished],
) -> None:
    laptop, vast, done = undisturbed
    assert done.summary["reason"] == "done"
    assert weights_sha256(laptop.models / "dog")
    [rental] = vast.rentals.values()
    assert rental.bid is None
    assert files_holding(pod_of(rental).folder, rental.label), "the search for the key looks in the wrong place"
    assert_nothing_is_left(vast, laptop, done)


def test_a_run_that_is_outbid_goes_on_elsewhere_to_the_very_same_weights(
    tmp_path: Path, undisturbed: tuple[Cloudbooth, FakeVast, Finished]
) -> None:
    with installed_beside_vast(tmp_path) as (laptop, vast):
        with laptop.started(*laptop.launch_argv("dog", "--spot", *STEPS, photos=SUBJECT)) as driver:
            wait_until(lambda: has_told_of_a_checkpoint(vast.living()), "a checkpoint on the machine")
            [first] = vast.living()
            pod_of(first).freeze("train")  # or a slow laptop would hear of the end before it has the checkpoint
            at_home = laptop.root / f"state/runs/dog/checkpoints/checkpoint-{CHECKPOINT:06}/manifest.json"
            wait_until(at_home.exists, "the checkpoint at home")
            vast.set_min_bid(first.host.machine_id, 90.0)
            stdout, stderr = driver.communicate(timeout=PATIENCE_S)
        done = Finished(driver.returncode, stdout, stderr)
        assert done.summary["reason"] == "done", stdout[-3000:] + stderr[-3000:]
        _, second = vast.rentals.values()
        assert first.host is not second.host
        assert None not in (first.bid, second.bid)
        assert min(steps_after_last_hello(laptop)) > CHECKPOINT, "it began at the beginning"
        assert weights_sha256(laptop.models / "dog") == weights_sha256(undisturbed[0].models / "dog")
        assert_nothing_is_left(vast, laptop, done)
