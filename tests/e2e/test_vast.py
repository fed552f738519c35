"""A launch at Vast.ai: photos in, a machine rented and trained on, the model home, the machine gone, the bill right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require_pods
from tests.e2e.command import Cloudbooth, Finished, processes_naming, wait_until
from tests.e2e.test_main_job import SUBJECT
from tests.e2e.weights import weights_sha256
from tests.fakes.vast import FakeVast, Host, Rental, running_vast

STEPS = ("--steps", "100", "--set", "train.checkpoint_every=40")
DEAR = ("--max-cost", "60")
"""A cent a second, so that a bill to the cent says something: the ceiling has to allow for it."""


@pytest.fixture
def vast(tmp_path: Path) -> Iterator[FakeVast]:
    require_pods()
    fake = FakeVast(pods=tmp_path / "pods", boot_s=0.5)
    fake.hosts = [Host(number, dph_base=36.0 + number, min_bid=24.0 + number) for number in (1, 2, 3)]
    with running_vast(fake):
        yield fake
    assert fake.violations == []


@pytest.fixture
def laptop(cloudbooth: Cloudbooth, vast: FakeVast) -> Cloudbooth:
    cloudbooth.environ = {"VAST_API_KEY": vast.account_key, "VAST_URL": vast.url}
    cloudbooth.machine = ("--set", "compute.provider=vast", "--set", "compute.allow_cpu=true", *DEAR, "--yes")
    return cloudbooth


@pytest.fixture(scope="module")
def undisturbed_sha256(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the weights that the same settings yield on this machine when nobody interferes."""
    installation = Cloudbooth(tmp_path_factory.mktemp("undisturbed"))
    installation.run(*installation.launch_argv("calm", *STEPS, photos=SUBJECT))
    return weights_sha256(installation.models / "calm")


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


def pod_of(rental: Rental) -> Path:
    assert rental.pod is not None
    return rental.pod.folder


def test_an_order_whose_answer_is_lost_is_found_late_and_trained_on(laptop: Cloudbooth, vast: FakeVast) -> None:
    vast.lose_creates, vast.visible_after_s = 1, 4.0
    vast.enforce_rates = True
    done = laptop.run(*laptop.launch_argv("dog", "--on-demand", "--steps", "20", photos=SUBJECT))
    assert done.summary["reason"] == "done"
    assert weights_sha256(laptop.models / "dog")
    [rental] = vast.rentals.values()
    assert rental.bid is None
    assert files_holding(pod_of(rental), rental.label), "the search for the key looks in the wrong place"
    assert_nothing_is_left(vast, laptop, done)


def test_a_run_that_is_outbid_goes_on_elsewhere_to_the_very_same_weights(
    laptop: Cloudbooth, vast: FakeVast, undisturbed_sha256: str
) -> None:
    checkpoint_at_home = laptop.root / "state" / "runs" / "dog" / "checkpoints" / "checkpoint-000040" / "manifest.json"
    with laptop.started(*laptop.launch_argv("dog", "--spot", *STEPS, photos=SUBJECT)) as driver:
        wait_until(checkpoint_at_home.exists, "the first checkpoint at home", timeout_s=120)
        [first] = vast.living()
        vast.set_min_bid(first.host.machine_id, 90.0)
        stdout, stderr = driver.communicate(timeout=180)
    done = Finished(driver.returncode, stdout, stderr)
    assert done.summary["reason"] == "done", stdout[-3000:] + stderr[-3000:]
    _, second = vast.rentals.values()
    assert first.host is not second.host
    assert None not in (first.bid, second.bid)
    assert weights_sha256(laptop.models / "dog") == undisturbed_sha256
    assert_nothing_is_left(vast, laptop, done)
