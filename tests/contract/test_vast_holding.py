"""What Vast.ai's adapter does with machines that are there, against a server with the service's traps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from providers.api import GpuRequest, MachineId, MachineStatus, Market
from providers.errors import CloudboothError, Indeterminate, MachineGone, NoCapacity, Transient
from providers.vast.provider import VastProvider
from tests.contract.vast_account import BOOT, SPOT, made, rented
from tests.fakes.vast import FakeVast, Host, Reply, running_vast


@pytest.fixture
def provider(vast: FakeVast, tmp_path: Path) -> VastProvider:
    return made(vast, tmp_path)


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
