"""Vast.ai's adapter against a server that behaves as the service does, traps included."""

from __future__ import annotations

from pathlib import Path

import pytest

from providers.api import BootPlan, GpuRequest, HasBilling, HasLogs, HasStop, MachineId, MachineStatus, Market
from providers.errors import AuthRejected, Indeterminate, NoCapacity, QuotaExceeded, Transient, UnsupportedMarket
from providers.registry import ProviderContext, load_provider
from providers.vast.provider import VastProvider
from tests.contract.vast_account import BOOT, SPOT, made, rented
from tests.fakes.vast import FakeVast, Host, Reply


@pytest.fixture
def provider(vast: FakeVast, tmp_path: Path) -> VastProvider:
    return made(vast, tmp_path)


# ---- the account -----------------------------------------------------------------------------------------------------


def test_a_missing_key_is_explained(tmp_path: Path) -> None:
    with pytest.raises(AuthRejected, match="VAST_API_KEY") as caught:
        load_provider("vast", ProviderContext(tmp_path, {}))
    assert "https://cloud.vast.ai/manage-keys/" in caught.value.hint


def test_a_wrong_key_is_an_error_of_its_own_wherever_it_is_used(vast: FakeVast, tmp_path: Path) -> None:
    wrong = made(vast, tmp_path, "wrong-key")
    for act in (lambda: wrong.offers(SPOT), lambda: wrong.list(""), lambda: wrong.describe(MachineId("31"))):
        with pytest.raises(AuthRejected) as caught:
            act()
        assert "wrong-key" not in str(caught.value) + caught.value.hint


def test_it_has_every_optional_ability(provider: VastProvider) -> None:
    assert isinstance(provider, HasStop)
    assert isinstance(provider, HasLogs)
    assert isinstance(provider, HasBilling)


def test_no_service_is_a_passing_failure(tmp_path: Path) -> None:
    nowhere = VastProvider(ProviderContext(tmp_path, {"VAST_API_KEY": "k", "VAST_URL": "http://127.0.0.1:1"}))
    with pytest.raises(Transient, match="does not answer"):
        nowhere.list("")


# ---- offers ----------------------------------------------------------------------------------------------------------


def test_more_offers_than_one_answer_holds_are_found_by_price(vast: FakeVast, provider: VastProvider) -> None:
    vast.hosts = [Host(number, dph_base=0.2 + number / 1000) for number in range(1, 151)]
    assert len(provider.offers(GpuRequest())) == 150
    assert vast.requests == ["POST /api/v0/bundles"] * 3


def test_a_refusal_after_the_first_page_ends_the_list_there(vast: FakeVast, provider: VastProvider) -> None:
    vast.hosts = [Host(number, dph_base=0.2 + number / 1000) for number in range(1, 101)]
    vast.reply_next(
        "POST /api/v0/bundles", Reply(200, {"offers": [host.offer("ondemand", 8) for host in vast.hosts[:64]]})
    )
    vast.reply_next("POST /api/v0/bundles", Reply(429, "API requests too frequent"))
    assert len(provider.offers(GpuRequest())) == 64


def test_an_offer_that_cannot_be_read_hides_no_other(vast: FakeVast, provider: VastProvider) -> None:
    good = vast.hosts[0].offer("ondemand", 8)
    vast.reply_next("POST /api/v0/bundles", Reply(200, {"offers": [{"id": "x"}, good]}))
    assert len(provider.offers(GpuRequest())) == 1


def test_a_filter_that_the_service_forgets_is_applied_by_us(vast: FakeVast, provider: VastProvider) -> None:
    vast.hosts = [Host(1, fields={"gpu_ram": 12288, "inet_down": 900.0}), Host(2, fields={"inet_down": 5.0})]
    vast.ignored_filters = frozenset({"gpu_ram", "inet_down"})
    assert provider.offers(GpuRequest(min_vram_gb=24)) == []


def test_several_gpus_are_not_bid_for(provider: VastProvider) -> None:
    with pytest.raises(UnsupportedMarket) as caught:
        provider.offers(GpuRequest(market=Market.SPOT, gpu_count=2))
    assert "on-demand" in caught.value.hint


# ---- create ----------------------------------------------------------------------------------------------------------


def test_a_bid_becomes_an_interruptible_instance_at_that_bid(vast: FakeVast, provider: VastProvider) -> None:
    rented(provider)
    [rental] = vast.living()
    assert rental.bid == pytest.approx(0.22)


def test_a_request_without_a_bid_is_on_demand(vast: FakeVast, provider: VastProvider) -> None:
    rented(provider, GpuRequest())
    [rental] = vast.living()
    assert rental.bid is None


def test_the_key_of_the_run_is_attached(vast: FakeVast, provider: VastProvider) -> None:
    rented(provider, authorized_key="ssh-ed25519 AAAA run")
    assert vast.living()[0].platform_keys == ["ssh-ed25519 AAAA run"]


def test_a_key_that_cannot_be_attached_does_not_cost_the_machine(vast: FakeVast, provider: VastProvider) -> None:
    offer = provider.offers(SPOT)[0]
    vast.reply_next("POST /api/v0/instances/", Reply(429, "API requests too frequent: endpoint threshold=1.0"))
    machine = provider.create(offer, BootPlan(authorized_key="ssh-ed25519 AAAA run"), "cb-1")
    assert provider.describe(machine).tag == "cb-1"


def test_a_bid_that_came_on_demand_is_given_back_at_once(vast: FakeVast, provider: VastProvider) -> None:
    vast.creates_on_demand = True
    with pytest.raises(NoCapacity, match="came on demand"):
        rented(provider)
    assert vast.living() == []


def test_a_failed_create_that_made_an_instance_leaves_none(vast: FakeVast, provider: VastProvider) -> None:
    offer = provider.offers(SPOT)[0]
    vast.host(1).min_bid = 0.9
    with pytest.raises(NoCapacity, match="below"):
        provider.create(offer, BOOT, "cb-1")
    assert len(vast.rentals) == 1
    assert vast.living() == []


def test_a_leak_that_cannot_be_closed_is_not_called_absence(vast: FakeVast, provider: VastProvider) -> None:
    offer = provider.offers(SPOT)[0]
    vast.host(1).min_bid = 0.9
    vast.reply_next("DELETE /api/v0/instances/", Reply(500, "oops"))
    with pytest.raises(Indeterminate, match="is not known"):
        provider.create(offer, BOOT, "cb-1")
    [left] = provider.list("cb-1")
    assert left.status is MachineStatus.STOPPED


@pytest.mark.parametrize("taken", [True, False], ids=["rented by somebody", "withdrawn"])
def test_an_offer_that_is_gone_is_no_capacity(vast: FakeVast, provider: VastProvider, taken: bool) -> None:
    offer = provider.offers(SPOT)[0]
    if taken:
        vast.host(1).taken = True
    else:
        vast.hosts = []
    with pytest.raises(NoCapacity):
        provider.create(offer, BOOT, "cb-1")
    assert vast.rentals == {}


def test_an_account_without_credit_is_told_so(vast: FakeVast, provider: VastProvider) -> None:
    vast.credit = 0.0
    with pytest.raises(QuotaExceeded):
        rented(provider)


def test_a_lost_answer_is_uncertain_and_the_list_knows(vast: FakeVast, provider: VastProvider) -> None:
    vast.lose_creates = 1
    with pytest.raises(Indeterminate, match="lost"):
        rented(provider)
    assert vast.requests.count("PUT /api/v0/asks/7000001") == 1
    assert [machine.tag for machine in provider.list("cb-1")] == ["cb-1"]


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_create_answered_by_a_broken_server_is_uncertain(vast: FakeVast, provider: VastProvider, status: int) -> None:
    vast.reply_next("PUT /api/v0/asks/", Reply(status, "<html>"))
    with pytest.raises(Indeterminate):
        rented(provider)


def test_a_create_that_was_throttled_has_rented_nothing(vast: FakeVast, provider: VastProvider) -> None:
    vast.reply_next("PUT /api/v0/asks/", Reply(429, "API requests too frequent: endpoint threshold=4.5"))
    with pytest.raises(Transient) as caught:
        rented(provider)
    assert caught.value.retry_after_s == 4.5


def test_a_create_that_was_never_sent_has_rented_nothing(provider: VastProvider, tmp_path: Path) -> None:
    offer = provider.offers(SPOT)[0]
    nowhere = VastProvider(ProviderContext(tmp_path, {"VAST_API_KEY": "k", "VAST_URL": "http://127.0.0.1:1"}))
    with pytest.raises(Transient, match="cannot be reached"):
        nowhere.create(offer, BOOT, "cb-1")


def test_an_instance_that_shows_late_is_kept(vast: FakeVast, provider: VastProvider) -> None:
    vast.visible_after_s = 60
    machine = rented(provider)
    assert provider.list("cb-1") == []
    vast.advance(61)
    assert [found.id for found in provider.list("cb-1")] == [machine]
