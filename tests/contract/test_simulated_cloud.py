"""The simulated cloud, under the suite of the real ones and in what it adds."""

from __future__ import annotations

from string import Template

import pytest

from providers.api import BootPlan, GpuRequest, MachineCall, MachineId, MachineProvider, MachineStatus, Market
from providers.errors import Indeterminate, MachineGone, NoCapacity, Transient
from providers.testing.contract import MachineProviderContract
from providers.testing.faults import CloudFault, Mishap
from providers.testing.machine_calls import environment
from providers.testing.rentals import Rental, Shelf
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
    with pytest.raises(Indeterminate):
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


def test_a_stopped_machine_bills_its_disk_by_the_day_and_frees_its_gpu() -> None:
    clock = VirtualClock()
    cloud = SimulatedCloud(clock, shelves=[Shelf("A", 24, 3.6, 1.8, stock=1, disk_usd_per_gb_day=0.01)])
    machine = rented(cloud)
    clock.sleep(100)
    cloud.stop(machine)
    clock.sleep(24 * 3600)
    assert cloud.spent_usd() == pytest.approx(0.1 + 20 * 0.01)
    assert cloud.offers(GpuRequest())


def test_a_stopped_machine_whose_gpu_went_to_somebody_else_stays_stopped() -> None:
    clock = VirtualClock()
    cloud = SimulatedCloud(clock, shelves=[Shelf("A", 24, 1, 1, stock=1)])
    machine = rented(cloud)
    cloud.stop(machine)
    other = rented(cloud, "cb-2")
    with pytest.raises(NoCapacity):
        cloud.start(machine)
    cloud.release(other)
    clock.sleep(60)
    cloud.start(machine)
    clock.sleep(60)
    assert cloud.describe(machine).status is MachineStatus.RUNNING


def test_being_outbid_stops_a_spot_machine_and_no_other() -> None:
    for market, expected in ((Market.SPOT, MachineStatus.STOPPED), (Market.ON_DEMAND, MachineStatus.RUNNING)):
        clock = VirtualClock()
        cloud = SimulatedCloud(clock, [Mishap(CloudFault.OUTBID, delay_s=20)])
        machine = cloud.create(cloud.offers(GpuRequest(market=market))[0], BootPlan(), "cb-1")
        clock.sleep(100)
        assert cloud.describe(machine).status is expected


def filled(call: MachineCall, rental: Rental) -> tuple[str, str, str]:
    """As a machine's shell does it."""
    blanks = environment(rental)
    return (
        call.method,
        Template(call.url).substitute(blanks),
        Template(call.headers["Authorization"]).substitute(blanks),
    )


def test_a_machine_can_probe_stop_and_terminate_itself_with_its_own_key() -> None:
    clock = VirtualClock()
    cloud = SimulatedCloud(clock)
    rental = cloud.rentals[rented(cloud)]
    own = cloud.self_release(rental.offer)
    assert own is not None
    assert own.stop is not None
    clock.sleep(60)
    assert cloud.answer_to_machine(*filled(own.probe, rental)) == 200
    assert cloud.describe(rental.id).status is MachineStatus.RUNNING
    assert cloud.answer_to_machine(*filled(own.stop, rental)) == 200
    assert cloud.describe(rental.id).status is MachineStatus.STOPPED
    assert cloud.answer_to_machine(*filled(own.terminate, rental)) == 200
    clock.sleep(60)
    assert cloud.answer_to_machine(*filled(own.terminate, rental)) == 404


def test_a_machine_cannot_end_another_one() -> None:
    cloud = SimulatedCloud(VirtualClock())
    one, other = (cloud.rentals[rented(cloud, tag)] for tag in ("cb-1", "cb-2"))
    own = cloud.self_release(one.offer)
    assert own is not None
    method, url, _ = filled(own.terminate, other)
    _, _, authorization = filled(own.terminate, one)
    assert cloud.answer_to_machine(method, url, authorization) == 401
    assert not other.released


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
