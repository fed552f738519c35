"""Vast.ai's offers: what is asked for, what is believed of the answer, and what a bid comes to."""

from __future__ import annotations

from typing import Any

import pytest

from providers.api import GpuRequest, Market, Offer
from providers.errors import NoCapacity
from providers.vast.asks import GPU_NAMES, Ticket, bid_usd, disk_gb, next_page_from_usd, offers, search
from providers.vast.records import Ask

SPOT = Market.SPOT


def ask(**other: Any) -> Ask:
    fields = {
        "id": 7001, "machine_id": 9, "gpu_name": "RTX 4090", "num_gpus": 1, "gpu_ram": 24564, "dph_base": 0.40,
        "min_bid": 0.20, "storage_cost": 0.18, "inet_up_cost": 0.02, "inet_down_cost": 0.01, "inet_down": 800.0,
        "reliability2": 0.99, "verification": "verified", "hosting_type": 0, "rentable": True, "rented": False,
        "direct_port_count": 4, "cuda_max_good": 12.8, "compute_cap": 890, "disk_space": 500.0, "duration": 1e6,
        "geolocation": "Oslo, NO",
    }  # fmt: skip
    return Ask.model_validate(fields | other)


def found(want: GpuRequest, **other: Any) -> list[Offer]:
    return offers([ask(**other)], want, "vast")


def test_the_price_on_demand_includes_the_disk() -> None:
    [offer] = found(GpuRequest(disk_gb=40))
    assert offer.price_per_hour_usd == pytest.approx(0.40 + 40 * 0.18 / 720)
    assert offer.stopped_disk_per_day_usd == pytest.approx(40 * 0.18 / 30)


def test_the_price_of_a_bid_is_the_bid_and_not_the_market() -> None:
    [offer] = found(GpuRequest(disk_gb=40, market=SPOT))
    assert offer.price_per_hour_usd == pytest.approx(0.22 + 40 * 0.18 / 720)
    assert Ticket.parse(offer.id) == Ticket(7001, 0.22, None)


def test_an_offer_tells_what_the_service_states() -> None:
    [offer] = found(GpuRequest())
    assert (offer.gpu, offer.vram_gb, offer.region, offer.reliability) == ("RTX 4090", 24.0, "Oslo, NO", 0.99)
    assert (offer.upload_usd_per_gb, offer.download_usd_per_gb, offer.download_mbps) == (0.02, 0.01, 800.0)


@pytest.mark.parametrize(
    "lacking",
    [
        {"rentable": False}, {"rented": True}, {"external": True}, {"verification": "unverified"}, {"num_gpus": 2},
        {"reliability2": 0.9}, {"direct_port_count": 0}, {"direct_port_count": None}, {"inet_down": 20.0},
        {"cuda_max_good": 11.8}, {"compute_cap": 610}, {"disk_space": 39.0}, {"duration": 3600.0}, {"gpu_ram": 12288},
        {"gpu_name": "RTX 3060"},
    ],
    ids=str,
)  # fmt: skip
def test_a_filter_that_the_service_did_not_apply_is_applied_here(lacking: dict[str, Any]) -> None:
    want = GpuRequest(gpus=("4090",), min_vram_gb=24, disk_gb=40)
    assert found(want)
    assert not found(want, **lacking)


def test_a_machine_in_a_data_center_is_secure_and_one_that_does_not_say_is_not() -> None:
    want = GpuRequest(secure_only=True)
    assert [offer.secure for offer in found(want, hosting_type=1)] == [True]
    assert not found(want, hosting_type=0)
    assert not found(want, hosting_type=None)
    assert not found(want, hosting_type=1, verification=None)
    assert search(want)["datacenter"] == {"eq": True}


def test_the_highest_price_bounds_the_bid_and_is_what_it_may_be_raised_to() -> None:
    [offer] = found(GpuRequest(disk_gb=40, market=SPOT, max_price_per_hour_usd=0.225))
    assert offer.price_per_hour_usd <= 0.225
    assert Ticket.parse(offer.id) == Ticket(7001, 0.215, 0.215)
    [offer] = found(GpuRequest(disk_gb=40, market=SPOT, max_price_per_hour_usd=0.5))
    assert Ticket.parse(offer.id) == Ticket(7001, 0.22, 0.49)
    assert not found(GpuRequest(disk_gb=40, market=SPOT, max_price_per_hour_usd=0.2))
    assert not found(GpuRequest(disk_gb=40, max_price_per_hour_usd=0.4))


@pytest.mark.parametrize(("market", "cap", "bid"), [(0.2, None, 0.22), (0.2, 0.21, 0.21), (0.2, 0.19, None)])
def test_a_bid_is_a_tenth_above_the_market_and_below_the_cap(market: float, cap: float | None, bid: float) -> None:
    assert bid_usd(market, cap) == bid


def test_a_machine_that_takes_no_bids_is_no_spot_offer() -> None:
    assert not found(GpuRequest(market=SPOT), min_bid=None)


def test_what_comes_without_an_ask_contract_is_rented_by_its_id() -> None:
    assert Ticket.parse(found(GpuRequest())[0].id).ask_id == 7001
    assert Ticket.parse(found(GpuRequest(), ask_contract_id=7002)[0].id).ask_id == 7002


@pytest.mark.parametrize("text", ["", "x", "1", "1/2/3/x", "one/0.2"])
def test_a_foreign_offer_rents_nothing(text: str) -> None:
    with pytest.raises(NoCapacity):
        Ticket.parse(text)


def test_a_search_states_bytes_and_names_as_the_service_does() -> None:
    body = search(GpuRequest(gpus=("rtx-4090",), min_vram_gb=24, disk_gb=40.5, market=SPOT, max_price_per_hour_usd=0.6))
    assert body["type"] == "bid"
    assert body["gpu_name"] == {"in": ["RTX 4090", "RTX 4090D"]}
    assert body["gpu_ram"] == {"gte": 24064.0}
    assert body["allocated_storage"] == 41
    assert body["dph_total"] == {"lte": 0.6}


def test_the_next_page_begins_where_the_service_ended_this_one() -> None:
    want = GpuRequest(disk_gb=40, market=SPOT)
    assert next_page_from_usd([ask(dph_total=0.2099), ask(dph_total=0.2101)], want) == 0.2101
    assert next_page_from_usd([ask()], want) == pytest.approx(0.21)
    assert search(want, 0.2101)["dph_total"] == {"gte": 0.2101}


def test_a_gpu_we_have_no_spelling_for_is_looked_for_among_all() -> None:
    assert "gpu_name" not in search(GpuRequest(gpus=("RTX 4090", "RTX 9090")))
    assert found(GpuRequest(gpus=("RTX_9090",)), gpu_name="RTX 9090")
    assert len(set(GPU_NAMES)) == len(GPU_NAMES)


def test_a_disk_is_whole_gigabytes_and_no_smaller_than_the_service_lets() -> None:
    assert [disk_gb(wanted) for wanted in (4, 8, 8.1, 0)] == [8, 8, 9, 40]
