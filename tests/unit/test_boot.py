"""Which machine is waited for while it boots, what is kept of a boot that failed, and when renting comes to an end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.budget import MAX_MACHINES
from orchestrator.lifecycle import Facts, Trouble
from orchestrator.phases import provision, release
from orchestrator.spec import Limits
from providers.api import BootPlan, GpuRequest, Machine, MachineId, MachineStatus, Market, Offer, SelfRelease
from providers.testing.faults import CloudFault, Mishap
from providers.testing.simulated_cloud import SHELVES, SimulatedCloud
from tests.unit.rented_world import World, made


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from made(tmp_path, Limits(max_cost_usd=50.0))


# ---- renting ---------------------------------------------------------------------------------------------------------


def test_an_attempt_rents_a_bounded_number_of_machines(world: World) -> None:
    [offer] = list(world.cloud.offers(GpuRequest()))[:1]
    ledger, context = world.ledger, world.context
    for number in range(MAX_MACHINES):
        tag = f"cb-x-dog-{number}"
        ledger.record_intent(context.run, context.epoch, tag, offer)
        ledger.record_created("dog", context.epoch, tag, MachineId(f"lost-{number}"))
        ledger.record_absent("dog", context.epoch, tag)
    facts = provision.create(context, Facts())
    assert facts.no_machine == f"{MAX_MACHINES} machines were rented in vain"
    assert not world.cloud.rentals


def test_when_every_offer_was_gone_it_is_waited_before_any_is_asked_for_again(world: World) -> None:
    for _ in SHELVES:
        world.cloud.arm(Mishap(CloudFault.NO_CAPACITY))
    facts = Facts()
    for _ in SHELVES:
        facts = provision.create(world.context, facts)
    assert (len(facts.refused), world.clock.monotonic()) == (len(SHELVES), 0.0), "each was asked for at once"
    facts = provision.create(world.context, facts)
    assert world.clock.monotonic() == facts.waited_s > 0
    assert not facts.refused
    assert not world.cloud.rentals
    provision.create(world.context, facts)
    assert len(world.cloud.rentals) == 1


# ---- booting ---------------------------------------------------------------------------------------------------------


def boot_logs(world: World) -> list[Path]:
    return list(world.context.home.root.glob("boot-*.log"))


def test_a_machine_that_is_stopped_while_it_boots_is_lost_and_not_broken(world: World) -> None:
    machine = world.rented().machine_id
    assert machine is not None
    world.cloud.stop(machine)
    facts = provision.await_ready(world.context, Facts())
    assert facts.machine_lost == "the machine has been stopped"
    assert (world.machine().trouble, world.machine().stopped) == (Trouble.LOST, True)
    assert not boot_logs(world), "nothing is wrong with its boot"


class _ShowsMarket(SimulatedCloud):
    """Shows of a stopped machine what it would bill if it ran, which has risen."""

    def describe(self, machine: MachineId) -> Machine:
        seen = super().describe(machine)
        return replace(seen, price_per_hour_usd=5.0) if seen.status is MachineStatus.STOPPED else seen


def test_what_a_stopped_machine_would_bill_is_not_what_it_bills(world: World) -> None:
    machine = world.rented().machine_id
    assert machine is not None
    world.cloud.stop(machine)
    world.cloud.__class__ = _ShowsMarket
    provision.await_ready(world.context, Facts())
    assert world.machine().trouble is Trouble.LOST, "and not too dear"
    assert [rate.stopped for rate in world.machine().rates] == [True]


class _Speechless(SimulatedCloud):
    """It has no log to show."""

    def logs(self, machine: MachineId) -> str:
        return ""


def test_a_boot_without_a_word_leaves_no_empty_log_behind(world: World) -> None:
    cloud = _Speechless(world.clock)
    context = replace(world.context, provider=cloud)
    provision.create(context, Facts())
    assert provision.await_ready(context, Facts()).machine_lost.startswith("the machine did not answer within")
    assert not boot_logs(world)
    assert not any("boot log" in note for note in world.told.notes)


@dataclass
class _Plain:
    """A provider with no optional ability."""

    cloud: SimulatedCloud
    name: str = "simulated"
    markets: frozenset[Market] = frozenset(Market)

    def offers(self, want: GpuRequest) -> Sequence[Offer]:
        return self.cloud.offers(want)

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        return self.cloud.create(offer, boot, tag)

    def describe(self, machine: MachineId) -> Machine:
        return self.cloud.describe(machine)

    def list(self, prefix: str) -> Sequence[Machine]:
        return self.cloud.list(prefix)

    def release(self, machine: MachineId) -> None:
        self.cloud.release(machine)

    def self_release(self, offer: Offer) -> SelfRelease | None:
        return self.cloud.self_release(offer)


def test_a_provider_that_shows_no_logs_is_not_asked_for_one(world: World) -> None:
    context = replace(world.context, provider=_Plain(world.cloud))
    provision.create(context, Facts())
    assert provision.await_ready(context, Facts()).machine_lost.startswith("the machine did not answer within")
    assert world.machine().trouble is Trouble.BROKEN
    assert not boot_logs(world)
    release.release(context, Facts())
    assert not world.cloud.living()
