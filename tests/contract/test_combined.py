"""Several providers as one: two simulated clouds under the suite of a single one, and what combining adds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from providers.api import (
    BootPlan,
    GpuRequest,
    HasBilling,
    HasLogs,
    HasStop,
    Machine,
    MachineId,
    MachineProvider,
    Market,
    Offer,
    SelfRelease,
)
from providers.combined import CombinedProvider, any_provider
from providers.errors import AuthRejected, MachineGone, Transient
from providers.registry import ProviderContext
from providers.retrying import RetryingProvider
from providers.testing.contract import MachineProviderContract
from providers.testing.faults import CloudFault, Mishap
from providers.testing.rentals import Shelf
from providers.testing.simulated_cloud import SimulatedCloud
from providers.testing.virtual_clock import VirtualClock


class East(SimulatedCloud):
    name = "east"


class West(SimulatedCloud):
    name = "west"


class Plain:
    """A provider without optional abilities, over one that has some."""

    name = "plain"

    def __init__(self, inner: SimulatedCloud) -> None:
        self.markets = inner.markets
        self._inner = inner

    def offers(self, want: GpuRequest) -> Sequence[Offer]:
        return self._inner.offers(want)

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        return self._inner.create(offer, boot, tag)

    def describe(self, machine: MachineId) -> Machine:
        return self._inner.describe(machine)

    def list(self, prefix: str) -> Sequence[Machine]:
        return self._inner.list(prefix)

    def release(self, machine: MachineId) -> None:
        self._inner.release(machine)

    def self_release(self, offer: Offer) -> SelfRelease | None:
        return self._inner.self_release(offer)


def two_clouds(folder: Path, clock: VirtualClock) -> tuple[CombinedProvider, East, West]:
    east = East(clock, shelves=[Shelf("RTX 4090", 24, 0.5, 0.2)])
    west = West(clock, shelves=[Shelf("RTX 3090", 24, 0.3, 0.25)])
    return CombinedProvider({"east": east, "west": west}, folder), east, west


class TestCombined(MachineProviderContract):
    sellers = frozenset({"east", "west"})

    @pytest.fixture
    def provider(self, tmp_path: Path) -> MachineProvider:
        self.clock = VirtualClock()
        return two_clouds(tmp_path, self.clock)[0]

    def settle(self, provider: MachineProvider) -> None:
        self.clock.sleep(60)


# ---- offers --------------------------------------------------------------------------------------------------------


def test_offers_of_all_members_stand_in_one_list(tmp_path: Path) -> None:
    both, _, _ = two_clouds(tmp_path, VirtualClock())
    assert [offer.provider for offer in both.offers(GpuRequest())] == ["west", "east"]
    assert [offer.provider for offer in both.offers(GpuRequest(market=Market.SPOT))] == ["east", "west"]


def test_a_member_that_fails_is_left_out_and_told(tmp_path: Path) -> None:
    both, east, _ = two_clouds(tmp_path, VirtualClock())
    told: list[str] = []
    both.told = told.append
    east.arm(Mishap(CloudFault.RATE_LIMITED, amount=7.0))
    assert [offer.provider for offer in both.offers(GpuRequest())] == ["west"]
    assert len(told) == 1
    assert told[0].startswith("east is left out: ")


def test_when_all_members_fail_so_do_offers(tmp_path: Path) -> None:
    both, east, west = two_clouds(tmp_path, VirtualClock())
    east.arm(Mishap(CloudFault.RATE_LIMITED, amount=7.0))
    west.arm(Mishap(CloudFault.RATE_LIMITED, amount=9.0))
    with pytest.raises(Transient):
        both.offers(GpuRequest())


# ---- machines ------------------------------------------------------------------------------------------------------


def test_a_machine_is_rented_from_whoever_offered_it(tmp_path: Path) -> None:
    both, east, west = two_clouds(tmp_path, VirtualClock())
    for offer in both.offers(GpuRequest()):
        machine = both.create(offer, BootPlan(), f"cb-{offer.provider}")
        assert machine.startswith(f"{offer.provider}:")
    assert [found.tag for found in east.list("cb-")] == ["cb-east"]
    assert [found.tag for found in west.list("cb-")] == ["cb-west"]
    assert {found.tag for found in both.list("cb-")} == {"cb-east", "cb-west"}


def test_absence_is_not_believed_from_half_an_answer(tmp_path: Path) -> None:
    both, east, _ = two_clouds(tmp_path, VirtualClock())
    east.arm(Mishap(CloudFault.OUTAGE, amount=60))
    with pytest.raises(Transient, match="east does not say which machines there are"):
        both.list("cb-")


def test_absence_is_not_believed_while_the_key_of_one_that_has_rented_is_missing(tmp_path: Path) -> None:
    both, east, west = two_clouds(tmp_path, VirtualClock())
    both.create(both.offers(GpuRequest())[0], BootPlan(), "cb-1")
    no_key = AuthRejected("no WEST_API_KEY is set", "export WEST_API_KEY=…")
    with pytest.raises(AuthRejected, match="WEST_API_KEY"):
        CombinedProvider({"east": east}, tmp_path, {"west": no_key}).list("cb-")
    assert not CombinedProvider({"west": west}, tmp_path, {"east": no_key}).list("other-"), "east never rented"


def test_a_machine_of_a_member_without_a_key_is_not_said_to_be_gone(tmp_path: Path) -> None:
    both, east, _ = two_clouds(tmp_path, VirtualClock())
    machine = both.create(both.offers(GpuRequest())[0], BootPlan(), "cb-1")
    without = CombinedProvider({"east": east}, tmp_path, {"west": AuthRejected("no WEST_API_KEY is set")})
    for ask in (without.describe, without.release):
        with pytest.raises(AuthRejected):
            ask(machine)
    with pytest.raises(MachineGone):
        without.describe(MachineId("north:1"))


# ---- abilities -----------------------------------------------------------------------------------------------------


def test_it_can_do_what_its_members_can(tmp_path: Path) -> None:
    clock = VirtualClock()
    cloud, plain = East(clock), Plain(West(clock))
    assert isinstance(CombinedProvider({"east": cloud}, tmp_path), HasStop)
    mixed = CombinedProvider({"east": cloud, "plain": plain}, tmp_path)
    assert not isinstance(mixed, HasStop), "a machine of `plain` could not be stopped"
    assert isinstance(mixed, HasLogs) == isinstance(cloud, HasLogs)
    assert isinstance(mixed, HasBilling) == isinstance(cloud, HasBilling)


def test_the_retry_loop_finds_its_abilities(tmp_path: Path) -> None:
    both, _, _ = two_clouds(tmp_path, VirtualClock())
    assert isinstance(RetryingProvider(both, lambda _seconds: None), HasStop)


def test_self_release_is_the_member_s(tmp_path: Path) -> None:
    both, east, _ = two_clouds(tmp_path, VirtualClock())
    [offer] = [offer for offer in both.offers(GpuRequest()) if offer.provider == "east"]
    own = dataclasses.replace(offer, id=offer.id.removeprefix("east:"))
    assert both.self_release(offer) == east.self_release(own)


# ---- the entry point -----------------------------------------------------------------------------------------------


def test_without_any_key_it_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(AuthRejected, match="no provider that rents machines is configured") as caught:
        any_provider(ProviderContext(tmp_path / "any", {}))
    assert caught.value.hint
