"""A machine with the only copy is started again: at what price, how often, and what the ledger says meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.budget import spent_usd
from orchestrator.host import Host
from orchestrator.lifecycle import Facts, Keeps, State, Trouble, Wish
from orchestrator.phases import provision, rescue
from orchestrator.phases.loss import Loss, declare_lost
from orchestrator.recovery import too_dear
from orchestrator.spec import Limits
from providers.api import Access, Machine, MachineId, MachineStatus
from providers.errors import CloudboothError, NoCapacity
from providers.testing.faults import CloudFault, Mishap
from providers.testing.simulated_cloud import SimulatedCloud
from remote_trainer import wire
from tests.simulation.computer import Computer
from tests.simulation.host import SimulatedHost
from tests.simulation.schedule import Occasion
from tests.unit.rented_world import World, made
from tests.unit.test_shipping import TRAINING


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from made(tmp_path, Limits())


def outbid(world: World) -> MachineId:
    """The machine has been stopped, and holds the finished model alone."""
    machine = (world.context.machine() or world.rented()).machine_id
    world.shipped_and_done()
    assert machine is not None
    world.cloud.stop(machine)
    assert declare_lost(world.context, Facts(), Loss(Trouble.PREEMPTED, "outbid", stopped=True)).keeps is Keeps.MODEL
    return machine


class _Raised(SimulatedCloud):
    """As one whose `start` raises the bid to the market, within the cap that it was given."""

    def describe(self, machine: MachineId) -> Machine:
        seen = super().describe(machine)
        dearer = seen.status is not MachineStatus.STOPPED
        return replace(seen, price_per_hour_usd=seen.price_per_hour_usd * 1.5) if dearer else seen


class _Answers(BaseException):
    """The machine was connected to: a test has seen that it stays."""


def test_a_machine_that_was_started_again_by_a_higher_bid_stays(world: World) -> None:
    outbid(world)
    world.cloud.__class__ = _Raised

    def connect(_access: Access) -> Host:
        raise _Answers

    rescue.revive(world.context, Facts())
    world.clock.sleep(60)
    offered_usd = world.machine().price_per_hour_usd
    with pytest.raises(_Answers):
        provision.await_ready(replace(world.context, connect=connect), Facts())
    assert world.machine().rate_usd == pytest.approx(1.5 * offered_usd), "what is agreed now is what is counted"
    assert world.machine().running_usd == world.machine().rate_usd


def test_only_the_users_own_limit_bounds_the_price_of_a_revived_machine() -> None:
    assert too_dear(None, 0.42, None) == ""
    assert too_dear(None, 0.42, 0.60) == ""
    assert "above the limit of $0.60/h" in too_dear(None, 0.62, 0.60)


def test_a_model_on_a_machine_that_never_answers_again_stays_on_its_stopped_disk(world: World) -> None:
    outbid(world)
    for _ in range(rescue.MAX_STARTS[Keeps.MODEL]):
        assert rescue.revive(world.context, Facts()).revived
        assert provision.await_ready(world.context, Facts()).machine_lost
    with pytest.raises(NoCapacity) as caught:
        rescue.revive(world.context, Facts())
    assert "was started again and never answered" in caught.value.message
    assert "start it in the console of simulated; then `cloudbooth attach dog`" in caught.value.hint
    assert [rental.stopped for rental in world.cloud.living()] == [True]


def test_starts_after_which_the_machine_answered_are_not_counted_against_it(world: World) -> None:
    machine = outbid(world)
    world.ledger.move("dog", world.context.epoch, State.PLANNED, State.PROVISIONING, "")
    for _ in range(rescue.MAX_STARTS[Keeps.MODEL]):
        world.clock.sleep(1)
        assert rescue.revive(world.context, Facts()).revived
        world.clock.sleep(60)
        world.cloud.stop(machine)
        world.ledger.record_stopped("dog", world.context.epoch, world.machine().tag)
    world.ledger.move("dog", world.context.epoch, State.PROVISIONING, State.SHIPPING, "the machine answers")
    world.clock.sleep(1)
    assert rescue.revive(world.context, Facts()).revived


class _KilledAfterStart(SimulatedCloud):
    def start(self, machine: MachineId) -> None:
        super().start(machine)
        raise KeyboardInterrupt


def test_a_driver_killed_in_a_start_leaves_the_machine_on_record_as_running(world: World) -> None:
    outbid(world)
    world.cloud.__class__ = _KilledAfterStart
    with pytest.raises(KeyboardInterrupt):
        rescue.revive(world.context, Facts())
    assert not world.machine().stopped
    assert world.machine().rate_usd == world.machine().price_per_hour_usd


def test_a_start_that_found_no_gpu_leaves_it_stopped_and_is_not_counted(world: World) -> None:
    outbid(world)
    before = world.machine().rates
    for _ in range(200):
        world.cloud.arm(Mishap(CloudFault.NO_RESTART))
    with pytest.raises(NoCapacity):
        rescue.revive(world.context, Facts())
    assert world.machine().rates == before


def test_a_start_that_the_ceiling_does_not_pay_for_is_not_tried(tmp_path: Path) -> None:
    for world in made(tmp_path, Limits(max_cost_usd=1.0)):
        hours_left = (1.0 - spent_usd([world.rented()], world.clock.now())) / world.machine().price_per_hour_usd
        world.clock.sleep(3600 * hours_left - rescue.REVIVAL_S / 4)
        outbid(world)
        with pytest.raises(NoCapacity, match=r"limits.max_cost_usd = 1 does not pay for another start"):
            rescue.revive(world.context, Facts())
        assert [rental.stopped for rental in world.cloud.living()] == [True]


def test_a_machine_that_is_no_longer_wanted_is_not_started(world: World) -> None:
    machine = outbid(world)
    world.ledger.set_wish("dog", Wish.DOWN)
    assert rescue.revive(world.context, Facts()) == Facts()
    assert world.cloud.rentals[machine].stopped
    assert world.machine().stopped


class _ShowsLater(SimulatedCloud):
    """What was asked of a machine shows in its status `shows_after_s` later."""

    shows_after_s = 20.0
    asked_at_s = float("-inf")

    def stop(self, machine: MachineId) -> None:
        super().stop(machine)
        self.asked_at_s = self._clock.monotonic()

    def start(self, machine: MachineId) -> None:
        super().start(machine)
        self.asked_at_s = self._clock.monotonic()

    def describe(self, machine: MachineId) -> Machine:
        seen = super().describe(machine)
        if self._clock.monotonic() - self.asked_at_s >= self.shows_after_s:
            return seen
        before = MachineStatus.RUNNING if seen.status is MachineStatus.STOPPED else MachineStatus.STOPPED
        return replace(seen, status=before)


def silent(world: World, shows_after_s: float) -> None:
    """Its machine runs, answers nobody, and holds the finished model alone."""
    world.rented()
    world.shipped_and_done()
    assert declare_lost(world.context, Facts(), Loss(Trouble.LOST, "silent")).keeps is Keeps.MODEL
    cloud = _ShowsLater(world.clock)
    cloud.rentals = world.cloud.rentals
    cloud.shows_after_s = shows_after_s
    world.cloud, world.context = cloud, replace(world.context, provider=cloud)


def test_a_machine_that_runs_unreached_is_seen_stopped_before_it_is_started(world: World) -> None:
    silent(world, shows_after_s=20.0)
    began_s = world.clock.monotonic()
    assert rescue.revive(world.context, Facts()).revived
    assert 40.0 <= world.clock.monotonic() - began_s < 60.0, "each was waited for"
    assert [rental.stopped for rental in world.cloud.living()] == [False]
    assert world.machine().starts == 1


def test_a_machine_that_the_provider_does_not_stop_is_left_to_a_person(world: World) -> None:
    silent(world, shows_after_s=1e6)
    with pytest.raises(CloudboothError, match="the provider does not stop the machine m1") as caught:
        rescue.revive(world.context, Facts())
    assert "`cloudbooth attach dog` tries again" in caught.value.hint
    assert not world.machine().stopped, "it is on record as what it shows"


def test_a_start_that_does_not_show_is_left_to_the_wait_for_the_machine(world: World) -> None:
    machine = outbid(world)
    cloud = _ShowsLater(world.clock)
    cloud.rentals, cloud.shows_after_s = world.cloud.rentals, 1e6
    began_s = world.clock.monotonic()
    assert rescue.revive(replace(world.context, provider=cloud), Facts()).revived
    assert world.clock.monotonic() - began_s == pytest.approx(rescue.STATUS_PATIENCE_S, abs=rescue.LOOK_AGAIN_S)
    assert not cloud.rentals[machine].stopped


class Nobody:
    """Watches nothing that happens on a machine, or on the way there."""

    streams = 0

    def enter(self, point: str) -> None: ...

    def leave(self, point: str) -> None: ...

    def arrives(self, chunk: bytes) -> bytes:
        return chunk

    def acted(self, computer: Computer, run_folder: str, verb: str) -> None: ...

    def trainer_started(self, computer: Computer, step: int) -> None: ...

    def said(self, computer: Computer, event: wire.Event) -> None: ...

    def happened(self, computer: Computer, occasion: Occasion) -> None: ...

    def holds_training(self, steps_left: int) -> bool:
        return False


def test_a_machine_that_answers_after_all_is_neither_stopped_nor_started(world: World, tmp_path: Path) -> None:
    silent(world, shows_after_s=0.0)
    computer = Computer("m1", tmp_path / "disk", world.clock, TRAINING, Nobody())
    context = replace(world.context, connect=lambda _access: SimulatedHost(computer, Nobody()))
    began_s = world.clock.monotonic()
    assert rescue.revive(context, Facts()).revived
    assert world.clock.monotonic() - began_s < 5.0
    assert (world.machine().starts, world.machine().stopped) == (0, False)
    [rental] = world.cloud.living()
    assert "stopped" not in "".join(rental.log)
