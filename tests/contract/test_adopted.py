"""A machine that somebody else keeps, under the suite for providers that rent nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from providers.adopted import AdoptedMachine
from providers.api import BootPlan, GpuRequest, HasStandingMachine, MachineId, MachineProvider, MachineStatus
from providers.errors import CloudboothError, MachineGone
from providers.testing.contract import MachineProviderContract
from providers.testing.simulated_cloud import SimulatedCloud
from providers.testing.virtual_clock import VirtualClock


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def cloud(clock: VirtualClock) -> SimulatedCloud:
    return SimulatedCloud(clock, boot_s=30)


@pytest.fixture
def kept(cloud: SimulatedCloud, clock: VirtualClock) -> MachineId:
    """A machine that its keeper rented for something else, and that runs."""
    machine = cloud.create(cloud.offers(GpuRequest())[0], BootPlan(), "somebody's")
    clock.sleep(60)
    return machine


@pytest.fixture
def adopted(cloud: SimulatedCloud, kept: MachineId, tmp_path: Path) -> AdoptedMachine:
    return AdoptedMachine(cloud, kept, tmp_path)


class TestAdopted(MachineProviderContract):
    @pytest.fixture
    def provider(self, adopted: AdoptedMachine) -> MachineProvider:
        return adopted


def test_it_is_looked_at_like_a_machine_of_ones_own(
    adopted: AdoptedMachine, cloud: SimulatedCloud, kept: MachineId
) -> None:
    assert isinstance(adopted, HasStandingMachine)
    assert adopted.access() == cloud.describe(kept).access


def test_giving_it_back_leaves_it_to_its_keeper(
    adopted: AdoptedMachine, cloud: SimulatedCloud, kept: MachineId
) -> None:
    machine = adopted.create(adopted.offers(GpuRequest())[0], BootPlan(), "cb-x-run-1-5")
    adopted.release(machine)
    with pytest.raises(MachineGone):
        adopted.describe(machine)
    assert cloud.describe(kept).status is MachineStatus.RUNNING


def test_its_bill_is_not_the_runs(adopted: AdoptedMachine) -> None:
    [offer] = adopted.offers(GpuRequest())
    assert offer.price_per_hour_usd == 0
    assert adopted.describe(adopted.create(offer, BootPlan(), "cb-x-run-1-5")).price_per_hour_usd == 0


def test_one_that_is_gone_is_named_with_what_to_do(cloud: SimulatedCloud, tmp_path: Path) -> None:
    with pytest.raises(MachineGone) as caught:
        AdoptedMachine(cloud, MachineId("never-was"), tmp_path).access()
    assert "never-was" in caught.value.hint


def test_one_that_does_not_run_yet_cannot_be_used(cloud: SimulatedCloud, tmp_path: Path) -> None:
    booting = cloud.create(cloud.offers(GpuRequest())[0], BootPlan(), "booting")
    with pytest.raises(CloudboothError, match="cannot be used: it is"):
        AdoptedMachine(cloud, booting, tmp_path).access()
