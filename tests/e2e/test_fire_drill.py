"""`doctor --fire-drill` on pods with a real sshd and guard: what it proves, and what it says when something fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require_pods
from tests.e2e.command import Cloudbooth
from tests.fakes.runpod import FakeRunPod, running_runpod


@pytest.fixture
def runpod(tmp_path: Path, cloudbooth: Cloudbooth) -> Iterator[FakeRunPod]:
    require_pods()
    with running_runpod(tmp_path / "runpod") as fake:
        cloudbooth.environ.update(fake.environ)
        yield fake


def test_a_machine_that_gives_itself_back_passes_and_costs_cents(runpod: FakeRunPod, cloudbooth: Cloudbooth) -> None:
    drill = cloudbooth.run("doctor", "--fire-drill", "runpod", "--yes", "--json").summary
    assert (drill["let_in"], drill["proven"], drill["gave_itself_back"], drill["passed"]) == (True,) * 4
    assert 0 < drill["cost_usd"] < 0.01
    [pod] = runpod.pods.values()
    assert pod.status == "TERMINATED"
    record = json.loads((cloudbooth.root / "state/providers/runpod/fire-drill.json").read_text())
    assert record["gave_itself_back"] is True


def test_nothing_is_rented_when_the_drill_may_cost_nothing(runpod: FakeRunPod, cloudbooth: Cloudbooth) -> None:
    done = cloudbooth.run("doctor", "--fire-drill", "runpod", "--yes", "--json", "--max-cost", "0.0001", check=None)
    assert done.exit_code == 5
    assert not runpod.pods


def test_a_provider_that_rents_nothing_has_nothing_to_prove(cloudbooth: Cloudbooth) -> None:
    done = cloudbooth.run("doctor", "--fire-drill", "local", check=2)
    assert "rents nothing" in done.stderr
