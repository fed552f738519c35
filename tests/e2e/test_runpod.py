"""`launch` trains on a rented pod: a container with an sshd of its own, rented from a fake that keeps its own meter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require_pods
from tests.e2e.command import PHOTOS, Cloudbooth, Finished
from tests.fakes.runpod import FakeRunPod, Shelf, running_runpod

# Real photographs are licensed for use beside a checkout, not inside one; a checkout by itself has drawn ones.
REAL_PHOTOS = Path(__file__).parents[3] / "shared" / "datasets" / "dog"
SUBJECT = REAL_PHOTOS if REAL_PHOTOS.is_dir() else PHOTOS
# So dear that a second is two cents: then a cent says something.
SHELF = Shelf("NVIDIA GeForce RTX 4090", "RTX 4090", 24, 72.0, bid=36.0)


@pytest.fixture
def runpod(tmp_path: Path) -> Iterator[FakeRunPod]:
    require_pods()
    with running_runpod(tmp_path / "runpod", shelves=(SHELF,), boot_after_s=0.3, address_after_s=0.3) as fake:
        yield fake


@pytest.fixture
def renting(cloudbooth: Cloudbooth, runpod: FakeRunPod) -> Cloudbooth:
    cloudbooth.environ |= runpod.environ
    settings = {"compute.allow_cpu": "true", "limits.max_cost_usd": "50", "compute.disk_gb": "20"}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    cloudbooth.machine = ("--provider", "runpod", *sets, "--yes")
    return cloudbooth


def assert_trained_and_given_back(done: Finished, renting: Cloudbooth, runpod: FakeRunPod) -> None:
    """One pod ever, gone now; the model is here, the price is the meter's, the account's key in no file anywhere."""
    assert done.summary["reason"] == "done"
    assert list(Path(done.summary["output"]).glob("*.safetensors"))
    [pod] = runpod.pods.values()
    assert pod.gone_at is not None
    assert f"{done.summary['cost_usd']:.2f}" == f"{runpod.billed_usd():.2f}"
    for folder in (pod.machine.disk, pod.machine.volume, renting.root):
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert files
        assert not [file for file in files if runpod.account_key.encode() in file.read_bytes()]
    assert runpod.account_key not in pod.machine.log + done.stdout + done.stderr


def test_on_demand_with_the_answer_to_the_rental_lost_and_the_pod_listed_late(
    renting: Cloudbooth, runpod: FakeRunPod
) -> None:
    runpod.lose_answers, runpod.listed_after_s = 1, 4.0
    done = renting.run(*renting.launch_argv("subject", "--steps", "6", "--on-demand", photos=SUBJECT))
    assert_trained_and_given_back(done, renting, runpod)
    assert runpod.requests.count(("POST", "/v2/pods")) == 1


def test_on_the_spot_market_with_a_pod_that_shows_up_late(renting: Cloudbooth, runpod: FakeRunPod) -> None:
    pytest.importorskip("runpod", reason="the extra `runpod` is not installed")
    runpod.listed_after_s = 3.0
    done = renting.run(*renting.launch_argv("subject", "--steps", "6", "--spot", photos=SUBJECT))
    assert_trained_and_given_back(done, renting, runpod)
    assert all(pod.spot for pod in runpod.pods.values())
