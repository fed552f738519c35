from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orchestrator.offers import MAX_SPOT_INTERRUPTIONS, OfferHistory, choose, gpu_requests
from orchestrator.spec import RunSpec
from orchestrator.spec_file import spec_from_photos
from providers.api import GpuRequest, Market, Offer
from providers.errors import NoCapacity

RTX_4090 = Offer("cloud", "1", "NVIDIA GeForce RTX 4090", 1, 24.0, Market.ON_DEMAND, 0.5, "EU-RO-1")
SPOT_4090 = dataclasses.replace(RTX_4090, id="2", market=Market.SPOT, price_per_hour_usd=0.25)
EITHER = "compute.market=spot-then-on-demand"


def spec(*overrides: str) -> RunSpec:
    return spec_from_photos(Path("/photos"), "sks dog", ["output.folder=/models", "compute.provider=cloud", *overrides])


def test_providers_are_asked_for_what_the_spec_wants() -> None:
    wanted = spec('compute.gpu=["A"]', "compute.min_vram_gb=24", "compute.disk_gb=40", "compute.trust=secure")
    assert gpu_requests(wanted) == (GpuRequest(("A",), 24.0, 40.0, Market.ON_DEMAND, None, True),)
    markets = [request.market for request in gpu_requests(spec(EITHER))]
    assert markets == [Market.SPOT, Market.ON_DEMAND]


def test_the_cheapest_offer_of_the_preferred_gpu_is_taken() -> None:
    a5000 = dataclasses.replace(RTX_4090, id="2", gpu="RTX A5000", price_per_hour_usd=0.2)
    dear = dataclasses.replace(RTX_4090, id="3", price_per_hour_usd=0.9)
    offers = [dear, a5000, RTX_4090]
    assert choose(spec('compute.gpu=["4090", "A5000"]'), offers).offer == RTX_4090
    assert choose(spec('compute.gpu=["4090", "A5000"]', "compute.max_price_per_hour=0.3"), offers).offer == a5000
    assert choose(spec(), offers).offer == a5000


def test_strangers_machines_are_left_out_when_trust_is_secure() -> None:
    community = dataclasses.replace(RTX_4090, secure=False)
    assert choose(spec(), [community]).offer == community
    with pytest.raises(NoCapacity):
        choose(spec("compute.trust=secure"), [community])


def test_a_quarantined_offer_is_the_last_resort() -> None:
    dear = dataclasses.replace(RTX_4090, id="3", price_per_hour_usd=0.9)
    history = OfferHistory(quarantined=frozenset({RTX_4090.id}))
    assert choose(spec(), [RTX_4090, dear], history).offer == dear
    again = choose(spec(), [RTX_4090], history)
    assert (again.offer, "has failed in this run" in again.why) == (RTX_4090, True)


# ---- spot, then on-demand ------------------------------------------------------------------------------------------


def test_spot_comes_first() -> None:
    cheap = dataclasses.replace(RTX_4090, id="3", price_per_hour_usd=0.4)
    assert choose(spec(EITHER), [cheap, SPOT_4090]).offer == SPOT_4090


def test_without_spot_machines_on_demand_is_taken_and_the_reason_told() -> None:
    choice = choose(spec(EITHER), [RTX_4090])
    assert (choice.offer, choice.why) == (RTX_4090, "only on-demand is offered now")


def test_too_many_interruptions_lead_to_on_demand_and_the_reason_is_told() -> None:
    offers = [SPOT_4090, RTX_4090]
    assert choose(spec(EITHER), offers, OfferHistory(interruptions=MAX_SPOT_INTERRUPTIONS - 1)).offer == SPOT_4090
    choice = choose(spec(EITHER), offers, OfferHistory(interruptions=MAX_SPOT_INTERRUPTIONS))
    assert choice.offer == RTX_4090
    assert choice.why == "3 spot machines were taken away, so on-demand from here on"


def test_who_asked_for_spot_alone_stays_there() -> None:
    history = OfferHistory(interruptions=2 * MAX_SPOT_INTERRUPTIONS)
    assert choose(spec("compute.market=spot"), [SPOT_4090], history).offer == SPOT_4090
