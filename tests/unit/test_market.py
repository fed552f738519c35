from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable

from rich.console import Console

from orchestrator.cli.render.gpus import render_listings
from orchestrator.market import Refusal, ask_all, side_by_side
from orchestrator.workload import workload
from providers.api import GpuRequest, Market, Offer
from providers.testing.faults import CloudFault, Mishap
from providers.testing.rentals import Shelf
from providers.testing.simulated_cloud import SimulatedCloud
from providers.testing.virtual_clock import VirtualClock
from remote_trainer.wire import TrainSpec

BOTH = (Market.ON_DEMAND, Market.SPOT)
RTX_4090 = Offer("cloud", "1", "RTX 4090", 1, 24.0, Market.ON_DEMAND, 0.5, "EU-RO-1", "High", reliability=0.995)
SPOT_4090 = dataclasses.replace(RTX_4090, id="2", market=Market.SPOT, price_per_hour_usd=0.25)
T4 = Offer("other", "3", "Tesla T4", 1, 16.0, Market.ON_DEMAND, 0.4)
LORA = workload("stable-diffusion-v1-5/stable-diffusion-v1-5", TrainSpec(steps=5000), ())


def test_both_markets_of_one_gpu_stand_in_one_line_each_with_its_cheapest_offer() -> None:
    dear = dataclasses.replace(RTX_4090, id="9", price_per_hour_usd=0.9)
    [listing] = side_by_side([dear, RTX_4090, SPOT_4090])
    assert (listing.on_demand, listing.spot, listing.offers) == (RTX_4090, SPOT_4090, 2)


def test_the_same_gpu_of_two_providers_stands_in_two_lines() -> None:
    elsewhere = dataclasses.replace(RTX_4090, provider="other")
    assert [listing.provider for listing in side_by_side([RTX_4090, elsewhere])] == ["cloud", "other"]


def test_without_a_run_the_price_decides_and_with_one_the_cost_of_the_model() -> None:
    assert [listing.gpu for listing in side_by_side([RTX_4090, T4])] == ["Tesla T4", "RTX 4090"]
    assert [listing.gpu for listing in side_by_side([RTX_4090, T4], LORA)] == ["RTX 4090", "Tesla T4"]


def test_a_provider_that_fails_is_told_and_keeps_nobody_else() -> None:
    clock = VirtualClock()
    sound = SimulatedCloud(clock, shelves=[Shelf("A", 24, 0.5, 0.2)])
    broken = SimulatedCloud(clock, [Mishap(CloudFault.RATE_LIMITED, amount=7.0)])
    offers, [refusal] = ask_all({"sound": sound, "broken": broken}, GpuRequest(), BOTH)
    assert [offer.market for offer in offers] == list(BOTH)
    assert (refusal.provider, refusal.configured) == ("broken", True)


def test_the_table_reads_well_and_says_who_is_missing(snapshot: Callable[[str, str], None]) -> None:
    console = Console(width=100, file=io.StringIO(), no_color=True)
    refusals = [
        Refusal("acme", "no ACME_API_KEY is set", "export ACME_API_KEY=…", configured=False),
        Refusal("late", "the service does not answer", "", configured=True),
    ]
    render_listings(side_by_side([RTX_4090, SPOT_4090, T4], LORA), refusals, BOTH, console)
    assert isinstance(console.file, io.StringIO)
    snapshot("gpus", console.file.getvalue())


def test_an_empty_market_says_so() -> None:
    console = Console(width=80, file=io.StringIO(), no_color=True)
    render_listings([], [], BOTH, console)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "nothing that fits is for rent right now\n"
