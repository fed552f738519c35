"""A machine that stays warm: the next run uses it without a boot, and it is given back when nobody wants it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require_pods
from tests.e2e.command import Cloudbooth, wait_until
from tests.fakes.runpod import FakeRunPod, running_runpod


@pytest.fixture
def runpod(tmp_path: Path, cloudbooth: Cloudbooth) -> Iterator[FakeRunPod]:
    require_pods()
    with running_runpod(tmp_path / "runpod") as fake:
        cloudbooth.environ |= fake.environ
        yield fake


def state_of(cloudbooth: Cloudbooth, run: str) -> str:
    return str(cloudbooth.run("status", run, "--json").summary["state"])


def test_the_next_run_uses_a_kept_machine_and_down_ends_it(runpod: FakeRunPod, cloudbooth: Cloudbooth) -> None:
    rented = ("--provider", "runpod", "--set", "compute.allow_cpu=true", "--set", "compute.disk_gb=20")
    first = cloudbooth.run(*cloudbooth.launch_argv("first", "--steps", "2", *rented, "--keep", "30m"))
    assert first.summary["reason"] == "done"
    assert Path(first.summary["output"]).is_dir()
    [pod] = runpod.pods.values()
    assert (state_of(cloudbooth, "first"), pod.gone_at) == ("keeping", None)
    assert "first" in first.stderr, "what may cost money is named under every command"

    second = cloudbooth.run(*cloudbooth.launch_argv("second", "--steps", "2", "--on", "first"))
    assert second.summary["reason"] == "done"
    assert second.summary["cost_usd"] == 0, "the machine is the first run's"
    assert len(runpod.pods) == 1
    assert pod.gone_at is None

    cloudbooth.run("down", "first", check=None)
    wait_until(lambda: pod.gone_at is not None, "the kept machine to be given back")
    wait_until(lambda: state_of(cloudbooth, "first") == "ended", "the run to end")
    assert cloudbooth.run("status", "first", "--json").summary["reason"] == "done"


def test_a_run_that_keeps_nothing_is_no_machine(cloudbooth: Cloudbooth) -> None:
    done = cloudbooth.run(*cloudbooth.launch_argv("dog", "--on", "nobody"), check=None)
    assert done.exit_code == 2
    assert "there is no run named `nobody`" in done.stderr


def test_a_time_that_is_none_is_explained(cloudbooth: Cloudbooth) -> None:
    done = cloudbooth.run(*cloudbooth.launch_argv("dog", "--keep", "soon"), check=2)
    assert "--keep takes a time" in done.stderr
    assert "--keep 30m" in done.stderr
