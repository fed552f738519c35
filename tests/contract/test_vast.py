"""Vast.ai's adapter against a server that behaves as the service does, traps included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from providers.api import BootPlan, GpuRequest, HasBilling, HasLogs, HasStop, MachineId, MachineStatus, Market
from providers.errors import (
    AuthRejected,
    CloudboothError,
    Indeterminate,
    MachineGone,
    NoCapacity,
    QuotaExceeded,
    Transient,
    UnsupportedMarket,
)
from providers.registry import ProviderContext, load_provider
from providers.vast.provider import VastProvider
from tests.fakes.vast import FakeVast, Host, Reply, running_vast

SPOT = GpuRequest(market=Market.SPOT)
BOOT = BootPlan(start_command="echo up", disk_gb=10)


@pytest.fixture
def vast() -> Iterator[FakeVast]:
    with running_vast() as fake:
        yield fake
    assert fake.violations == []


@pytest.fixture
def provider(vast: FakeVast, tmp_path: Path) -> VastProvider:
    return made(vast, tmp_path)


def made(vast: FakeVast, folder: Path, key: str | None = None) -> VastProvider:
    environ = {"VAST_API_KEY": vast.account_key if key is None else key, "VAST_URL": vast.url}
    return VastProvider(ProviderContext(folder, environ))


def rented(provider: VastProvider, want: GpuRequest = SPOT, **boot: Any) -> MachineId:
    fields = {"start_command": "echo up", "disk_gb": 10} | boot
    return provider.create(provider.offers(want)[0], BootPlan(**fields), "cb-1")


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


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_ports_come_later_than_running_and_in_strings(vast: FakeVast, provider: VastProvider) -> None:
    vast.boot_s, vast.ports_after_looks = 5.0, 2
    machine = rented(provider)
    vast.advance(6)
    accesses = [provider.describe(machine).access for _ in range(3)]
    assert accesses[0] is None
    assert accesses[-1] is not None
    assert (accesses[-1].host, accesses[-1].port) == ("127.0.0.1", 20_001)  # type: ignore[union-attr]


def test_ports_that_only_the_list_shows_are_found_there(vast: FakeVast, provider: VastProvider) -> None:
    vast.ports_after_looks, vast.ports_in_single_look = 0, False
    machine = rented(provider)
    vast.advance(1)
    assert provider.describe(machine).access is not None


def test_a_single_instance_may_come_as_a_list(vast: FakeVast, provider: VastProvider) -> None:
    vast.reply_next("GET /api/v0/instances/31", Reply(200, {"instances": [{"id": 31, "label": "cb-9"}]}))
    assert provider.describe(MachineId("31")).tag == "cb-9"


def test_all_pages_of_a_long_list_are_read(vast: FakeVast, provider: VastProvider) -> None:
    vast.hosts = [Host(number) for number in range(1, 31)]
    for number, offer in enumerate(provider.offers(SPOT)):
        provider.create(offer, BOOT, f"cb-{number:02}")
    assert len(provider.list("cb-")) == 30
    assert len(provider.list("cb-1")) == 10


def test_an_outbid_machine_is_stopped_before_its_container_is(vast: FakeVast, provider: VastProvider) -> None:
    machine = rented(provider)
    vast.advance(1)
    vast.outbid_kill_s = 20.0
    vast.set_min_bid(1, 0.9)
    seen = provider.describe(machine)
    assert (seen.status, seen.status_text) == (MachineStatus.STOPPED, "running, outbid or stopped")
    assert seen.price_per_hour_usd == pytest.approx(10 * 0.18 / 720 * 1.5)
    vast.advance(21)
    assert provider.describe(machine).status_text == "exited, outbid or stopped"


def test_faster_looks_than_allowed_say_how_long_to_wait(vast: FakeVast, provider: VastProvider) -> None:
    machine = rented(provider)
    vast.enforce_rates = True
    provider.describe(machine)
    with pytest.raises(Transient) as caught:
        provider.describe(machine)
    assert caught.value.retry_after_s == 2.0
    vast.advance(2)
    provider.describe(machine)


# ---- stop and start --------------------------------------------------------------------------------------------------


def test_a_stopped_machine_starts_again(vast: FakeVast, provider: VastProvider) -> None:
    machine = rented(provider)
    vast.advance(1)
    provider.stop(machine)
    provider.stop(machine)
    assert provider.describe(machine).status is MachineStatus.STOPPED
    provider.start(machine)
    vast.advance(1)
    provider.start(machine)
    assert provider.describe(machine).status is MachineStatus.RUNNING


def test_a_start_that_is_queued_is_taken_back(vast: FakeVast, provider: VastProvider) -> None:
    machine = rented(provider)
    vast.advance(1)
    provider.stop(machine)
    vast.host(1).taken = True
    with pytest.raises(NoCapacity, match="currently unavailable"):
        provider.start(machine)
    assert not vast.living()[0].queued


def test_a_queued_start_that_cannot_be_taken_back_is_not_called_none(vast: FakeVast, provider: VastProvider) -> None:
    machine = rented(provider)
    vast.advance(1)
    provider.stop(machine)
    vast.host(1).taken = True
    queued = {"success": False, "error": "resources_unavailable", "msg": "state change queued."}
    vast.reply_next("PUT /api/v0/instances/", Reply(200, queued))
    vast.reply_next("PUT /api/v0/instances/", Reply(502, "oops"))
    with pytest.raises(Indeterminate, match="may start later"):
        provider.start(machine)


def test_a_start_raises_the_bid_to_the_market_within_the_price_agreed_on(
    vast: FakeVast, provider: VastProvider, tmp_path: Path
) -> None:
    machine = rented(provider, GpuRequest(market=Market.SPOT, max_price_per_hour_usd=0.6))
    vast.advance(1)
    vast.set_min_bid(1, 0.40)
    vast.advance(1)
    made(vast, tmp_path).start(machine)  # another process
    assert vast.living()[0].bid == pytest.approx(0.44)
    vast.advance(1)
    assert provider.describe(machine).status is MachineStatus.RUNNING


def test_a_market_above_the_price_agreed_on_is_not_followed(vast: FakeVast, provider: VastProvider) -> None:
    machine = rented(provider, GpuRequest(market=Market.SPOT, max_price_per_hour_usd=0.3))
    vast.advance(1)
    vast.set_min_bid(1, 0.40)
    vast.advance(1)
    with pytest.raises(NoCapacity):
        provider.start(machine)
    assert vast.living()[0].bid == pytest.approx(0.22)


def test_what_is_gone_can_be_neither_stopped_nor_started(provider: VastProvider) -> None:
    for act in (provider.stop, provider.start, provider.logs):
        for machine in ("31", "never-was"):
            with pytest.raises(MachineGone):
                act(MachineId(machine))


# ---- logs, bill, self-release ----------------------------------------------------------------------------------------


def test_logs_are_asked_for_once_and_fetched_without_the_key(vast: FakeVast, provider: VastProvider) -> None:
    machine = rented(provider)
    assert provider.logs(machine) == ""
    assert "echo up" in provider.logs(machine)
    assert sum("request_logs" in request for request in vast.requests) == 1


def test_the_bill_counts_disk_and_machine_and_outlives_both(vast: FakeVast, provider: VastProvider) -> None:
    machine = rented(provider)
    vast.advance(3600)
    provider.stop(machine)
    vast.advance(3600)
    provider.release(machine)
    vast.advance(3600)
    expected = 0.22 + 10 * 0.18 / 720 * (1 + 1.5)
    assert provider.billed_usd(machine) == pytest.approx(expected, abs=0.001)


def test_a_machine_without_charges_has_no_bill_yet(provider: VastProvider) -> None:
    assert provider.billed_usd(MachineId("31")) is None


def called(call: Any, machine: MachineId, key: str) -> int:
    """As the guard fills it in and sends it."""
    filled = [call.url, call.body, *call.headers.values()]
    for name, value in {"CONTAINER_ID": machine, "CONTAINER_API_KEY": key, "CLOUDBOOTH_TAG": "cb-1"}.items():
        filled = [text.replace(f"${{{name}}}", value) for text in filled]
    url, body, *values = filled
    headers = dict(zip(call.headers, values, strict=True))
    return httpx.request(call.method, url, content=body, headers=headers).status_code


def test_a_machine_proves_stops_and_ends_itself_with_its_own_key(vast: FakeVast, provider: VastProvider) -> None:
    offer = provider.offers(SPOT)[0]
    machine = provider.create(offer, BOOT, "cb-1")
    way = provider.self_release(offer)
    assert way.stop is not None
    key = vast.living()[0].key
    assert called(way.probe, machine, key) == 200
    assert provider.describe(machine).tag == "cb-1"
    assert called(way.stop, machine, key) == 200
    assert provider.describe(machine).status is MachineStatus.STOPPED
    assert called(way.terminate, machine, key) == 200
    assert vast.living() == []


def test_the_key_of_one_machine_opens_no_other(vast: FakeVast, provider: VastProvider) -> None:
    offers = provider.offers(SPOT)
    first, second = provider.create(offers[0], BOOT, "cb-1"), provider.create(offers[1], BOOT, "cb-2")
    key = vast.rentals[int(first)].key
    way = provider.self_release(offers[0])
    assert called(way.terminate, second, key) == 401
    assert len(vast.living()) == 2


# ---- the server ------------------------------------------------------------------------------------------------------


def test_what_is_not_in_the_description_does_not_pass() -> None:
    with running_vast() as fake:
        if fake.contract is None:
            pytest.skip("the service's description is not beside this checkout")
        headers = {"Authorization": f"Bearer {fake.account_key}", "User-Agent": "cloudbooth"}
        with httpx.Client(base_url=fake.url, headers=headers) as http:
            http.post("/api/v0/bundles/", json={"gpus": {"eq": 1}})
            http.put(
                "/api/v0/asks/7000001/",
                json={"image": "i", "env": {"-p 22:22": "1"}, "spot": 1},
            )
            http.get("/api/v1/instances/", params={"colour": "blue"})
        assert len(fake.violations) == 3, fake.violations
        fake.violations.clear()


def test_errors_carry_a_hint_or_pass_by_themselves(vast: FakeVast, provider: VastProvider) -> None:
    vast.credit = 0.0
    with pytest.raises(CloudboothError) as caught:
        rented(provider)
    assert caught.value.hint
