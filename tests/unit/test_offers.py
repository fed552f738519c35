from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.offers import MAX_SPOT_INTERRUPTIONS, OfferHistory, choose, gpu_requests
from orchestrator.spec import RunSpec
from orchestrator.spec_file import spec_from_photos
from providers.api import GpuRequest, Market, Offer
from providers.errors import NoCapacity

RTX_4090 = Offer("runpod", "1", "NVIDIA GeForce RTX 4090", 1, 24.0, Market.ON_DEMAND, 0.5, "EU-RO-1")
SPOT_4090 = dataclasses.replace(RTX_4090, id="2", market=Market.SPOT, price_per_hour_usd=0.25)
EITHER = "compute.market=spot-then-on-demand"


def spec(*overrides: str) -> RunSpec:
    return spec_from_photos(
        Path("/photos"), "sks dog", ["output.folder=/models", "compute.provider=runpod", *overrides]
    )


def test_providers_are_asked_for_what_the_spec_wants() -> None:
    wanted = spec('compute.gpu=["A"]', "compute.min_vram_gb=24", "compute.disk_gb=40", "compute.trust=secure")
    assert gpu_requests(wanted) == (GpuRequest(("A",), 24.0, 40.0, Market.ON_DEMAND, None, True),)
    markets = [request.market for request in gpu_requests(spec(EITHER))]
    assert markets == [Market.SPOT, Market.ON_DEMAND]


def test_without_a_word_about_it_memory_and_disk_are_what_the_run_needs() -> None:
    [lora] = gpu_requests(spec())
    [full] = gpu_requests(spec("train.method=full"))
    assert (lora.min_vram_gb, lora.disk_gb) == (8.0, 20.0)
    assert (full.min_vram_gb, full.disk_gb) == (18.5, 65.0)


def test_a_base_that_is_one_file_lies_on_the_disk_twice() -> None:
    [folder] = gpu_requests(spec())
    for base in ("./realistic.safetensors", "https://example.com/download/1"):
        [file] = gpu_requests(spec(f"model.base={base}"))
        assert file.disk_gb > folder.disk_gb


def test_who_names_gpus_is_not_second_guessed_about_their_memory() -> None:
    [request] = gpu_requests(spec("train.method=full", 'compute.gpu=["RTX 3060"]'))
    assert request.min_vram_gb == 0.0


def test_a_gpu_that_is_too_small_is_left_out_even_when_the_provider_offers_it() -> None:
    small = dataclasses.replace(RTX_4090, id="9", gpu="RTX 3060", vram_gb=12.0, price_per_hour_usd=0.1)
    assert choose(spec("train.method=full"), [small, RTX_4090]).offer == RTX_4090


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


def test_the_highest_price_goes_along_where_a_provider_bids_up_to_it() -> None:
    wanted = spec(EITHER, "compute.max_price_per_hour=0.6")
    assert [request.max_price_per_hour_usd for request in gpu_requests(wanted)] == [0.6, None]
    assert [request.max_price_per_hour_usd for request in gpu_requests(wanted, capped=False)] == [None, None]


def test_a_host_stays_quarantined_when_its_price_changes() -> None:
    before, now = (dataclasses.replace(RTX_4090, id=f"4711/{price}") for price in ("0.22", "0.2/0.6"))
    dear = dataclasses.replace(RTX_4090, id="4712/0.9", price_per_hour_usd=0.9)
    assert choose(spec(), [now, dear], OfferHistory(quarantined=frozenset({before.id}))).offer == dear


@given(st.lists(st.floats(0.05, 5), min_size=2, max_size=6, unique=True), st.floats(1, 10))
def test_what_others_cost_more_changes_no_choice(prices: list[float], factor: float) -> None:
    offers = [dataclasses.replace(RTX_4090, id=str(n), price_per_hour_usd=price) for n, price in enumerate(prices)]
    chosen = choose(spec(), offers).offer
    dearer = [
        each if each == chosen else dataclasses.replace(each, price_per_hour_usd=each.price_per_hour_usd * factor)
        for each in offers
    ]
    assert choose(spec(), dearer).offer == chosen


def test_a_quarantined_offer_is_the_last_resort() -> None:
    dear = dataclasses.replace(RTX_4090, id="3", price_per_hour_usd=0.9)
    history = OfferHistory(quarantined=frozenset({RTX_4090.id}))
    assert choose(spec(), [RTX_4090, dear], history).offer == dear
    again = choose(spec(), [RTX_4090], history)
    assert (again.offer, "has failed in this run" in again.why) == (RTX_4090, True)


def test_a_faster_gpu_at_a_higher_price_may_give_the_cheaper_model() -> None:
    slow = dataclasses.replace(RTX_4090, id="9", gpu="Tesla T4", vram_gb=16.0, price_per_hour_usd=0.45)
    assert choose(spec("train.steps=5000"), [slow, RTX_4090]).offer == RTX_4090


# ---- spot, then on-demand ------------------------------------------------------------------------------------------


def test_spot_comes_first() -> None:
    cheap = dataclasses.replace(RTX_4090, id="3", price_per_hour_usd=0.4)
    assert choose(spec(EITHER), [cheap, SPOT_4090]).offer == SPOT_4090


def test_without_spot_machines_on_demand_is_taken_and_the_reason_told() -> None:
    choice = choose(spec(EITHER), [RTX_4090])
    assert (choice.offer, choice.why) == (RTX_4090, "only on-demand is offered now")


def test_a_market_that_was_not_asked_for_is_not_taken() -> None:
    with pytest.raises(NoCapacity) as caught:
        choose(spec("compute.market=spot"), [RTX_4090])
    assert caught.value.message == "runpod has no spot GPU with 8 GB to offer right now"
    assert caught.value.hint == "on-demand there is NVIDIA GeForce RTX 4090 at $0.50/h: `--on-demand`"


def test_too_many_interruptions_lead_to_on_demand_and_the_reason_is_told() -> None:
    offers = [SPOT_4090, RTX_4090]
    assert choose(spec(EITHER), offers, OfferHistory(interruptions=MAX_SPOT_INTERRUPTIONS - 1)).offer == SPOT_4090
    choice = choose(spec(EITHER), offers, OfferHistory(interruptions=MAX_SPOT_INTERRUPTIONS))
    assert choice.offer == RTX_4090
    assert choice.why == "3 spot machines were taken away, so on-demand from here on"


def test_spot_that_would_cost_more_in_the_end_is_not_taken() -> None:
    hardly_cheaper = dataclasses.replace(SPOT_4090, price_per_hour_usd=0.499)
    choice = choose(spec(EITHER, "train.steps=50000", "train.checkpoint_every=500"), [hardly_cheaper, RTX_4090])
    assert choice.offer == RTX_4090
    assert choice.why.startswith("on-demand is expected to cost $")


def test_the_last_money_that_pays_for_on_demand_is_not_risked_on_spot() -> None:
    long_run, offers = spec(EITHER, "train.steps=20000"), [SPOT_4090, RTX_4090]
    assert choose(long_run, offers, OfferHistory(remaining_usd=5.0)).offer == SPOT_4090
    choice = choose(long_run, offers, OfferHistory(remaining_usd=0.48))
    assert choice.offer == RTX_4090
    assert choice.why.startswith("$0.48 are left: after one more interruption")
    assert choose(long_run, offers, OfferHistory(remaining_usd=0.2)).offer == SPOT_4090, "on-demand is out of reach"


def test_steps_that_are_safe_need_not_be_paid_again() -> None:
    nearly_done = OfferHistory(remaining_usd=0.48, steps_done=18000)
    assert choose(spec(EITHER, "train.steps=20000"), [SPOT_4090, RTX_4090], nearly_done).offer == SPOT_4090


def test_who_asked_for_spot_alone_stays_there() -> None:
    history = OfferHistory(interruptions=2 * MAX_SPOT_INTERRUPTIONS)
    assert choose(spec("compute.market=spot"), [SPOT_4090], history).offer == SPOT_4090
