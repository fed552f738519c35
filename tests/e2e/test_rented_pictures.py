"""`generate` on a machine rented for the pictures: quoted first, driven as a run, given back whatever happens."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import require_pods
from tests.e2e.command import PATIENCE_S, Cloudbooth, Finished
from tests.fakes.runpod import FakeRunPod, Shelf, running_runpod

SHELF = Shelf("NVIDIA GeForce RTX 4090", "RTX 4090", 24, 1.0, bid=0.5)
WANTED = ("a photo of sks robot", "--count", "1", "--steps", "2", "--json")


@pytest.fixture
def runpod(tmp_path: Path) -> Iterator[FakeRunPod]:
    require_pods()
    with running_runpod(tmp_path / "runpod", shelves=(SHELF,), boot_after_s=0.3, address_after_s=0.3) as fake:
        yield fake


@pytest.fixture
def renting(trained: Cloudbooth, runpod: FakeRunPod) -> Cloudbooth:
    """Has a model `bot`, and no machine that it could be on."""
    return Cloudbooth(trained.root, environ=runpod.environ)


def generate(*options: str, to: str) -> tuple[str, ...]:
    return ("generate", "bot", *WANTED, "--provider", "runpod", "--to", to, *options)


def test_a_killed_driver_is_followed_by_attach_which_brings_the_pictures_and_gives_the_machine_back(
    renting: Cloudbooth, runpod: FakeRunPod
) -> None:
    quoted = []

    def at_work(line: dict[str, object]) -> bool:
        quoted.append(line)
        return line["type"] == "state" and line["state"] == "training"

    assert renting.kill_when(generate(to="rented"), at_work)
    assert quoted[0]["type"] == "quote"
    assert quoted[0]["ceiling_usd"] == 1.0
    name = str(quoted[0]["run"])
    held = renting.run("ps", "--json")
    assert f"`cloudbooth down {name}` gives it back" in held.stderr

    done = renting.run("attach", name, "--json").summary
    assert (done["reason"], done["made_pictures"]) == ("done", True)
    assert Image.open(renting.root / "rented" / "42.png").info["parameters"].startswith("a photo of sks robot\n")
    assert (renting.root / "rented" / "grid.png").is_file()
    [pod] = runpod.pods.values()
    assert pod.gone_at is not None
    assert f"{done['cost_usd']:.2f}" == f"{runpod.billed_usd():.2f}"
    assert renting.run("ps", "--json").stderr == ""


def test_ctrl_c_gives_the_machine_back_without_pictures(renting: Cloudbooth, runpod: FakeRunPod) -> None:
    with renting.started(*generate("--count", "64", to="none")) as driver:  # so many that none is done too soon
        assert driver.stdout is not None
        lines = []
        for line in driver.stdout:
            lines.append(line)
            if json.loads(line).get("state") == "shipping":
                break
        os.kill(driver.pid, signal.SIGINT)
        rest, stderr = driver.communicate(timeout=PATIENCE_S)
    done = Finished(driver.returncode, "".join(lines) + rest, stderr)
    assert done.summary["reason"] == "stopped"
    [pod] = runpod.pods.values()
    assert pod.gone_at is not None
    assert not (renting.root / "none").exists()


def test_what_the_ceiling_does_not_pay_for_is_refused_before_anything_is_rented(
    renting: Cloudbooth, runpod: FakeRunPod
) -> None:
    refused = renting.run(*generate("--max-cost", "0.05", to="none"), check=2)
    assert "too low for RTX 4090" in refused.stderr
    assert not runpod.pods


def test_without_an_offer_nothing_is_rented_or_written(renting: Cloudbooth, runpod: FakeRunPod) -> None:
    runpod.shelves = ()
    before = renting.run("ps", "--json").lines
    assert "has no" in renting.run(*generate(to="none"), check=5).stderr
    assert renting.run("ps", "--json").lines == before
