"""`compute.volume`: which one is meant, who has it, and what the plan says of it."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.base_model import HubModel
from orchestrator.cli.render.plan import render_plan
from orchestrator.dataset.scan import Photo, Scan
from orchestrator.errors import RunConflict, UsageError
from orchestrator.offers import gpu_requests
from orchestrator.plan import Plan, make_plan
from orchestrator.plan_json import plan_to_data
from orchestrator.rental import ProviderTerms
from orchestrator.spec import RunSpec
from orchestrator.spec_file import spec_from_photos
from orchestrator.volumes import planned_volume, require_free
from providers.api import Market, Offer, Volume
from providers.errors import NoCapacity
from providers.testing.simulated_cloud import SimulatedCloud
from providers.testing.virtual_clock import VirtualClock

CACHE = Volume("vol_a", "cache", "EU-RO-1", 100, 7.0)
FAST = Volume("vol_b", "fast", "US-KS-2", 20, None)


class WithVolumes(SimulatedCloud):
    def __init__(self, *volumes: Volume) -> None:
        super().__init__(VirtualClock())
        self.account = volumes

    def volumes(self) -> tuple[Volume, ...]:
        return self.account


def spec(*overrides: str, provider: str = "runpod") -> RunSpec:
    return spec_from_photos(Path("/photos"), "sks dog", [f"compute.provider={provider}", *overrides])


def planned(*overrides: str, volume: Volume | None = CACHE) -> Plan:
    photos = tuple(Photo(Path(f"/photos/{n}.jpg"), 1000, 1000, "RGB", 1000, "0" * 64, None) for n in range(5))
    offer = Offer("runpod", "1", "NVIDIA A40", 1, 48.0, Market.ON_DEMAND, 0.5, "EU-RO-1")
    terms = ProviderTerms(ends_itself=True, stops_itself=True, can_be_stopped=True, stopped_disk_may_vanish=True)
    wish = [f"compute.volume={volume.id}"] if volume else []
    scans = {"instance": Scan(Path("/photos"), photos, ())}
    return make_plan(
        spec(*wish, *overrides), scans, HubModel("owner/base", "0" * 40, True),
        [offer], terms_of=lambda _offer: terms, volume=volume,
    )  # fmt: skip


# ---- which one -----------------------------------------------------------------------------------------------------


def test_offers_are_asked_for_where_the_volume_lies() -> None:
    wants = gpu_requests(spec("compute.volume=vol_a", "compute.market=spot-then-on-demand"))
    assert [want.volume for want in wants] == ["vol_a", "vol_a"]


def test_without_the_key_nobody_is_asked() -> None:
    assert planned_volume(SimulatedCloud(VirtualClock()), spec()) is None


def test_the_volume_that_is_named_is_found() -> None:
    assert planned_volume(WithVolumes(CACHE, FAST), spec("compute.volume=vol_b")) is FAST


def test_a_provider_without_volumes_is_an_error_that_names_one_with() -> None:
    with pytest.raises(UsageError, match="has no network volumes") as caught:
        planned_volume(SimulatedCloud(VirtualClock()), spec("compute.volume=vol_a"))
    assert "--provider runpod" in caught.value.hint


def test_an_unknown_id_is_answered_with_what_the_account_has() -> None:
    with pytest.raises(UsageError) as caught:
        planned_volume(WithVolumes(CACHE, FAST), spec("compute.volume=vol_c"))
    assert "vol_a (cache, 100 GB in EU-RO-1, $7.00 a month)" in caught.value.message
    assert "vol_b (fast, 20 GB in US-KS-2, price not known)" in caught.value.message
    assert caught.value.hint == "--set compute.volume=vol_a"
    with pytest.raises(UsageError, match="it has none"):
        planned_volume(WithVolumes(), spec("compute.volume=vol_c"))


@pytest.mark.parametrize("wrong", [["compute.machine=pod1"], ["compute.provider=local"]])
def test_a_machine_that_is_not_rented_has_its_own_disk(wrong: list[str]) -> None:
    with pytest.raises(UsageError, match=r"compute\.volume is for machines to be rented"):
        spec("compute.volume=vol_a", *wrong)


# ---- one run at a time ---------------------------------------------------------------------------------------------


def test_a_volume_that_a_run_of_any_laptop_has_is_not_planned_with() -> None:
    held = dataclasses.replace(CACHE, mounted_by=("my-notebook", "cb-other-cat-1-1790000000"))
    with pytest.raises(RunConflict, match="in use by the machine cb-other-cat-1-1790000000"):
        planned_volume(WithVolumes(held), spec("compute.volume=vol_a"))


def test_nothing_is_rented_for_a_volume_that_was_deleted_meanwhile() -> None:
    require_free(WithVolumes(CACHE), "vol_a")
    with pytest.raises(NoCapacity, match="there no more"):
        require_free(WithVolumes(), "vol_a")


# ---- in the plan ---------------------------------------------------------------------------------------------------


def test_the_plan_shows_place_price_and_what_stays() -> None:
    out = io.StringIO()
    render_plan(planned(), Console(file=out, width=160, color_system=None))
    shown = out.getvalue()
    assert "vol_a: cache, 100 GB in EU-RO-1, $7.00 a month, with or without a run" in shown
    assert "base and environment lie on the volume vol_a" in shown
    assert "the volume vol_a stays and bills on, for $7.00 a month, until you delete it" in shown
    assert "compute.disk_gb" not in shown
    assert "stopped disk" not in shown


def test_what_is_committed_outlives_the_machine_and_the_plan_says_so() -> None:
    made = planned()
    assert made.rental is not None
    told = dict(made.rental.afterwards)
    assert "ends itself: the next one finds the model on vol_a" in told["laptop away"]
    assert told["at risk then"] == "what was trained since the last checkpoint, each of which lies on vol_a"


def test_a_volume_too_small_for_the_run_is_warned_about() -> None:
    assert any("has 20 GB" in warning.message for warning in planned("compute.disk_gb=60", volume=FAST).warnings)
    assert not any("vol_a has" in warning.message for warning in planned().warnings)


def test_the_plan_as_data_names_it() -> None:
    assert plan_to_data(planned())["rental"]["volume"]["region"] == "EU-RO-1"
    assert plan_to_data(planned(volume=None))["rental"]["volume"] is None
