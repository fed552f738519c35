"""`launch` trains on a rented pod: a container with an sshd of its own, rented from a fake that keeps its own meter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.storage.api import ObjectStore
from tests.conftest import require_pods
from tests.e2e.command import PATIENCE_S, PHOTOS, Cloudbooth, Finished, wait_until
from tests.fakes.runpod import FakeRunPod, Shelf, running_runpod
from tests.fakes.s3_servers import SECRET_KEY, S3Server

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


def assert_trained_and_given_back(cost_usd: float, done: Finished, renting: Cloudbooth, runpod: FakeRunPod) -> None:
    """One pod ever, gone now; the model is here, the price is the meter's, and no key is in any file or log."""
    assert done.summary["reason"] == "done"
    assert list(Path(done.summary["output"]).glob("*.safetensors"))
    [pod] = runpod.pods.values()
    assert pod.gone_at is not None
    assert f"{cost_usd:.2f}" == f"{runpod.billed_usd():.2f}"
    for folder in (pod.machine.disk, pod.machine.volume, renting.root):
        files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
        assert files
        assert [file for file in files if any(key.encode() in file.read_bytes() for key in keys_of(runpod))] == []
    told = pod.machine.log + done.stdout + done.stderr
    assert not any(key in told for key in keys_of(runpod))


def keys_of(runpod: FakeRunPod) -> tuple[str, str]:
    """What opens the account and the object storage, and belongs to the laptop alone."""
    return runpod.account_key, SECRET_KEY


def status_of(renting: Cloudbooth, run: str) -> dict[str, Any]:
    return renting.run("status", run, "--json").summary


def test_on_demand_with_the_answer_to_the_rental_lost_and_the_pod_kept_for_a_second_run(
    renting: Cloudbooth, runpod: FakeRunPod
) -> None:
    runpod.lose_answers, runpod.listed_after_s = 1, 4.0
    options = ("--steps", "2", "--set", "train.validate_every=0")
    first = renting.run(*renting.launch_argv("first", *options, "--on-demand", "--keep", "30m", photos=SUBJECT))
    assert first.summary["reason"] == "done"
    [pod] = runpod.pods.values()
    assert (status_of(renting, "first")["state"], pod.gone_at) == ("keeping", None)
    assert "first" in first.stderr, "what may cost money is named under every command"

    renting.machine = ("--yes",)
    second = renting.run(*renting.launch_argv("second", *options, "--on", "first"))
    assert second.summary["reason"] == "done"
    assert second.summary["cost_usd"] == 0, "the machine is the first run's"
    assert pod.gone_at is None

    made = renting.run("generate", "first", "a photo of sks robot", "--count", "1", "--steps", "2", "--json").summary
    assert (made["where"], [Path(file).name for file in made["files"]]) == ("machine", ["42.png", "grid.png"])
    assert Path(made["files"][0]).read_bytes().startswith(b"\x89PNG")

    renting.run("down", "first", check=None)
    wait_until(lambda: pod.gone_at is not None, "the kept machine to be given back")
    wait_until(lambda: status_of(renting, "first")["state"] == "ended", "the run to end")
    ended = status_of(renting, "first")
    assert ended["reason"] == "done"
    assert_trained_and_given_back(ended["cost_usd"], first, renting, runpod)
    assert runpod.requests.count(("POST", "/v2/pods")) == 1


def test_on_the_spot_market_with_a_pod_that_shows_up_late_and_object_storage(
    renting: Cloudbooth, runpod: FakeRunPod, s3_server: S3Server, s3_store: ObjectStore
) -> None:
    pytest.importorskip("runpod", reason="the extra `runpod` is not installed")
    runpod.listed_after_s = 1.0
    renting.environ |= s3_server.environ
    stored = ("--set", f"storage.url={s3_store.url}", "--set", f"storage.endpoint_url={s3_server.endpoint_url}")
    with renting.started(*renting.launch_argv("subject", "--steps", "6", "--spot", *stored, photos=SUBJECT)) as driver:
        assert driver.stdout is not None
        lines = []
        for line in driver.stdout:
            lines.append(line)
            if '"type": "step"' in line:
                break
        [pod] = runpod.pods.values()
        processes = pod.machine.processes()
        rest, stderr = driver.communicate(timeout=PATIENCE_S)
    assert any("remote_trainer" in process.argv for process in processes), "the search looks in the wrong place"
    assert not any(key in repr(process) for process in processes for key in keys_of(runpod))
    done = Finished(driver.returncode, "".join(lines) + rest, stderr)
    assert_trained_and_given_back(done.summary["cost_usd"], done, renting, runpod)
    assert list(s3_store.objects("runs/")), "nothing was uploaded: there was no storage key to keep"
    assert pod.spot
