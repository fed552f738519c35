"""`gpus` and `--provider any` as a user runs them, against Vast.ai's fake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import PHOTOS, Cloudbooth
from tests.fakes.vast import FakeVast, running_vast

RUN = (str(PHOTOS), "--subject", "sks dog")


@pytest.fixture
def vast() -> Iterator[FakeVast]:
    with running_vast() as fake:
        yield fake
    assert fake.violations == []


@pytest.fixture
def cloudbooth(vast: FakeVast, tmp_path: Path) -> Cloudbooth:
    return Cloudbooth(tmp_path, environ={"VAST_API_KEY": vast.account_key, "VAST_URL": vast.url, "RUNPOD_API_KEY": ""})


def test_offers_come_with_the_cost_of_the_model_and_who_is_not_configured(cloudbooth: Cloudbooth) -> None:
    lines = cloudbooth.run("gpus", *RUN, "--json").lines
    [listing] = [line for line in lines if line["type"] == "listing"]
    assert (listing["provider"], listing["gpu"]) == ("vast", "RTX 4090")
    assert 0 < listing["spot_quote"]["cost_usd"]["expected"] < listing["on_demand_quote"]["cost_usd"]["expected"]
    assert lines[-1]["not_configured"] == ["runpod"]


def test_a_gpu_that_nobody_offers_leaves_an_empty_list(cloudbooth: Cloudbooth) -> None:
    assert cloudbooth.run("gpus", "--gpu", "H100", "--json").summary["listings"] == 0


def test_without_any_key_it_says_what_to_set_and_fails(tmp_path: Path) -> None:
    nobody = Cloudbooth(tmp_path, environ={"VAST_API_KEY": "", "RUNPOD_API_KEY": ""}).run("gpus", check=5)
    assert "VAST_API_KEY" in nobody.stdout
    assert "RUNPOD_API_KEY" in nobody.stdout


def test_any_provider_plans_with_the_best_offer_of_those_that_answer(cloudbooth: Cloudbooth) -> None:
    plan = cloudbooth.run("plan", *RUN, "--provider", "any", "--spot", "--json").lines[0]
    assert (plan["offer"]["provider"], plan["offer"]["market"]) == ("vast", "spot")
    assert plan["rental"]["terms"]["ends_itself"] is True
    assert plan["rental"]["alternatives"][0]["offer"]["market"] == "on-demand"
