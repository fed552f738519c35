"""What RunPod's adapter does with pods that are there: stop, start, logs, bills; and those on spot."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from providers.api import GpuRequest, HasBilling, HasLogs, HasStop, MachineId, MachineStatus, Market
from providers.errors import AuthRejected, CloudboothError, Indeterminate, MachineGone, NoCapacity, UnsupportedMarket
from providers.runpod.provider import RunPodProvider
from tests.contract.runpod_account import BOOT, built, cheapest, needs_the_vendors_package, rented
from tests.fakes.runpod import FakeRunPod


@pytest.fixture
def provider(runpod: FakeRunPod, tmp_path: Path) -> RunPodProvider:
    return built(runpod, tmp_path)


# ---- stop, start, logs, bill -----------------------------------------------------------------------------------------


def test_it_stops_and_starts_keeps_logs_and_a_bill(provider: RunPodProvider) -> None:
    assert isinstance(provider, HasStop)
    assert isinstance(provider, HasLogs)
    assert isinstance(provider, HasBilling)


def test_a_stopped_pod_costs_its_volume_whatever_the_service_says(provider: RunPodProvider) -> None:
    machine = rented(provider)
    provider.stop(machine)
    stopped = provider.describe(machine)
    assert (stopped.status, stopped.access) == (MachineStatus.STOPPED, None)
    assert stopped.price_per_hour_usd == pytest.approx(30 * 0.20 / 720)


def test_stopping_and_starting_twice_is_safe(provider: RunPodProvider) -> None:
    machine = rented(provider)
    provider.stop(machine)
    provider.stop(machine)
    provider.start(machine)
    provider.start(machine)
    assert provider.describe(machine).status is MachineStatus.RUNNING


def test_stopping_or_starting_what_is_gone_says_so(provider: RunPodProvider) -> None:
    for act in (provider.stop, provider.start):
        with pytest.raises(MachineGone):
            act(MachineId("never-was"))


def test_a_pod_that_may_not_be_stopped_is_an_error(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    machine = rented(provider)
    runpod.pods[machine].locked = True
    with pytest.raises(CloudboothError, match="locked"):
        provider.stop(machine)


def test_a_host_without_a_free_gpu_leaves_nothing_started(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    machine = rented(provider)
    provider.stop(machine)
    runpod.refuse_capacity = 1
    with pytest.raises(NoCapacity):
        provider.start(machine)
    assert runpod.pods[machine].status == "EXITED"


def test_a_pod_that_comes_back_without_a_gpu_is_stopped_again(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    machine = rented(provider)
    provider.stop(machine)
    runpod.start_without_gpu = 1
    with pytest.raises(NoCapacity, match="no free GPU"):
        provider.start(machine)
    assert runpod.pods[machine].status == "EXITED"


def test_the_log_says_what_the_host_did_though_the_stream_never_ends(provider: RunPodProvider) -> None:
    log = provider.logs(rented(provider))
    assert log.splitlines()[-1].endswith("system: start container")


def test_the_log_of_what_is_gone_says_so(provider: RunPodProvider) -> None:
    with pytest.raises(MachineGone):
        provider.logs(MachineId("never-was"))


def test_the_bill_adds_up_all_buckets_also_after_the_end(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    machine = rented(provider)
    provider.release(machine)
    assert provider.billed_usd(machine) == pytest.approx(runpod.pods[machine].meter.usd)
    assert provider.billed_usd(MachineId("never-was")) is None


# ---- spot ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def spot(provider: RunPodProvider) -> RunPodProvider:
    needs_the_vendors_package()
    return provider


def test_spot_offers_are_priced_at_the_lowest_bid(spot: RunPodProvider) -> None:
    offer = cheapest(spot, market=Market.SPOT, gpus=("4090",))
    assert (offer.market, offer.secure) == (Market.SPOT, True)
    assert offer.price_per_hour_usd == pytest.approx(0.21 + 50 * 0.10 / 720)


def test_a_spot_pod_is_bid_for_with_the_offers_price(runpod: FakeRunPod, spot: RunPodProvider) -> None:
    offer = cheapest(spot, market=Market.SPOT)
    tricky = replace(BOOT, env={"A": 'x"y\\z\nline'}, start_command='echo "it\'s" &')
    machine = spot.create(offer, tricky, "cb-spot")
    pod = runpod.pods[machine]
    assert (pod.name, pod.gpu_usd_per_hour, pod.spot) == ("cb-spot", 0.11, True)
    assert pod.request["env"] == {"A": 'x"y\\z\nline', "PUBLIC_KEY": BOOT.authorized_key}
    assert spot.describe(machine).price_per_hour_usd == pytest.approx(offer.price_per_hour_usd)
    assert [found.id for found in spot.list("cb-")] == [machine]


def test_spot_bids_above_the_highest_price_are_no_offers(spot: RunPodProvider) -> None:
    offers = spot.offers(GpuRequest(market=Market.SPOT, max_price_per_hour_usd=0.15))
    assert {offer.gpu for offer in offers} == {"RTX A5000"}


def test_an_outbid_spot_rental_is_no_capacity(runpod: FakeRunPod, spot: RunPodProvider) -> None:
    offer = cheapest(spot, market=Market.SPOT)
    runpod.refuse_capacity = 1
    with pytest.raises(NoCapacity) as caught:
        spot.create(offer, BOOT, "cb-spot")
    assert "--provider vast --spot" in caught.value.hint


def test_a_removed_spot_market_says_what_works_instead(runpod: FakeRunPod, spot: RunPodProvider) -> None:
    offer = cheapest(spot, market=Market.SPOT)
    runpod.spot_alive = False
    with pytest.raises(UnsupportedMarket) as caught:
        spot.create(offer, BOOT, "cb-spot")
    assert "--provider vast --spot" in caught.value.hint
    assert "--on-demand" in caught.value.hint
    assert not runpod.pods


def test_a_lost_answer_to_a_spot_rental_is_indeterminate(runpod: FakeRunPod, spot: RunPodProvider) -> None:
    offer = cheapest(spot, market=Market.SPOT)
    runpod.lose_answers = 1
    with pytest.raises(Indeterminate):
        spot.create(offer, BOOT, "cb-spot")
    assert len(runpod.pods) == 1


@pytest.mark.usefixtures("spot")
def test_a_wrong_key_is_refused_on_the_spot_market_too(runpod: FakeRunPod, tmp_path: Path) -> None:
    with pytest.raises(AuthRejected):
        built(runpod, tmp_path, RUNPOD_API_KEY="rpa_WRONG").offers(GpuRequest(market=Market.SPOT))


def test_the_vendors_package_says_nothing_of_its_own() -> None:
    needs_the_vendors_package()
    program = (
        "import logging, sys\n"
        "from providers.api import GpuRequest\n"
        "from providers.errors import Transient\n"
        "from providers.runpod.spot import SpotMarket\n"
        "from providers.secret import Secret\n"
        "before = logging.root.handlers[:], logging.root.level\n"
        "try:\n"
        "    SpotMarket(Secret('k', 'K'), 'http://127.0.0.1:1').gpus(GpuRequest())\n"
        "except Transient:\n"
        "    assert 'runpod' in sys.modules\n"
        "    assert (logging.root.handlers, logging.root.level) == before\n"
        "    print('silent')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("silent\n", "")
