"""The simulated cloud, under the suite of the real ones and in what it adds."""

from __future__ import annotations

import pytest

from providers.api import BootPlan, GpuRequest, MachineId, MachineProvider, MachineStatus, Market
from providers.errors import Indeterminate, MachineGone, NoCapacity, Transient
from providers.testing.contract import MachineProviderContract
from providers.testing.faults import CloudFault, Mishap
from providers.testing.rentals import Shelf
from providers.testing.simulated_cloud import SimulatedCloud
from providers.testing.virtual_clock import VirtualClock


class TestSimulatedCloud(MachineProviderContract):
    @pytest.fixture
    def provider(self) -> MachineProvider:
        self.clock = VirtualClock()
        return SimulatedCloud(self.clock)

    def settle(self, provider: MachineProvider) -> None:
        self.clock.sleep(60)


def rented(cloud: SimulatedCloud, tag: str = "cb-1") -> MachineId:
    return cloud.create(cloud.offers(GpuRequest())[0], BootPlan(), tag)


def test_a_machine_answers_after_its_boot_and_not_before() -> None:
    clock = VirtualClock()
    cloud = SimulatedCloud(clock, boot_s=30)
    machine = rented(cloud)
    clock.sleep(29)
    assert (cloud.describe(machine).status, cloud.describe(machine).access) == (MachineStatus.STARTING, None)
    clock.sleep(2)
    assert cloud.describe(machine).status is MachineStatus.RUNNING


def test_billing_runs_from_creation_to_the_end_of_the_release() -> None:
    clock = VirtualClock()
    cloud = SimulatedCloud(clock, shelves=[Shelf("A", 24, 3.6, 1.8)], release_s=10)
    machine = rented(cloud)
    clock.sleep(100)
    cloud.release(machine)
    clock.sleep(1000)
    assert cloud.spent_usd() == pytest.approx(110 * 3.6 / 3600)


def test_a_lost_answer_leaves_a_machine_and_a_lost_request_none() -> None:
    clock = VirtualClock()
    cloud = SimulatedCloud(clock, [Mishap(CloudFault.LOST_ANSWER), Mishap(CloudFault.LOST_REQUEST, skip=1)])
    for tag, machines in (("cb-1", 1), ("cb-2", 0)):
        with pytest.raises(Indeterminate):
            rented(cloud, tag)
        assert len(cloud.list(tag)) == machines


def test_a_machine_that_is_listed_late_exists_and_bills_before() -> None:
    clock = VirtualClock()
    cloud = SimulatedCloud(clock, [Mishap(CloudFault.LISTED_LATE, amount=60)])
    rented(cloud)
    assert not cloud.list("cb-")
    assert cloud.living()
    clock.sleep(60)
    assert cloud.list("cb-")


def test_an_outage_fails_every_call_and_passes() -> None:
    clock = VirtualClock()
    cloud = SimulatedCloud(clock)
    machine = rented(cloud)
    cloud.arm(Mishap(CloudFault.OUTAGE, amount=20))
    with pytest.raises(Transient):
        cloud.release(machine)
    clock.sleep(20)
    cloud.release(machine)


def test_a_rate_limit_says_how_long_to_wait() -> None:
    cloud = SimulatedCloud(VirtualClock(), [Mishap(CloudFault.RATE_LIMITED, amount=7.0)])
    with pytest.raises(Transient) as caught:
        cloud.offers(GpuRequest())
    assert caught.value.retry_after_s == 7.0


def test_a_false_absence_lasts_for_one_look() -> None:
    cloud = SimulatedCloud(VirtualClock(), [Mishap(CloudFault.FALSE_ABSENCE)])
    machine = rented(cloud)
    with pytest.raises(MachineGone):
        cloud.describe(machine)
    assert cloud.describe(machine).id == machine


def test_a_pre_emption_with_notice_tells_the_machine_first() -> None:
    clock = VirtualClock()
    cloud = SimulatedCloud(clock, [Mishap(CloudFault.PREEMPTED_WITH_NOTICE, delay_s=20, amount=5)], boot_s=30)
    told: list[float] = []
    cloud.hooks.on_notice = lambda _rental: told.append(clock.monotonic())
    cloud.hooks.on_gone = lambda _rental: told.append(clock.monotonic())
    rented(cloud)
    clock.sleep(100)
    assert told == [50, 55]


def test_stock_runs_out_and_comes_back() -> None:
    clock = VirtualClock()
    cloud = SimulatedCloud(clock, shelves=[Shelf("A", 24, 1, 1, stock=1)])
    offer = cloud.offers(GpuRequest())[0]
    machine = cloud.create(offer, BootPlan(), "cb-1")
    assert not cloud.offers(GpuRequest())
    with pytest.raises(NoCapacity):
        cloud.create(offer, BootPlan(), "cb-2")
    cloud.release(machine)
    clock.sleep(60)
    assert cloud.offers(GpuRequest())


def test_spot_is_a_market_of_its_own_price() -> None:
    cloud = SimulatedCloud(VirtualClock())
    spot, on_demand = (cloud.offers(GpuRequest(market=m))[0] for m in (Market.SPOT, Market.ON_DEMAND))
    assert spot.price_per_hour_usd < on_demand.price_per_hour_usd


def test_equal_moments_keep_their_order_and_a_canceled_one_never_comes() -> None:
    clock = VirtualClock()
    seen: list[str] = []
    clock.after(5, lambda: seen.append("a"))
    clock.after(5, lambda: seen.append("canceled")).cancel()
    clock.after(5, lambda: seen.append("b"))
    clock.after(1, lambda: seen.append("first"))
    clock.sleep(4.9)
    assert seen == ["first"]
    clock.sleep(0.1)
    assert seen == ["first", "a", "b"]
