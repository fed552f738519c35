"""Machines that come late, and `down` in every state: nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.at_stake import lost_by_down
from orchestrator.errors import StaleDriver
from orchestrator.home import Home
from orchestrator.host import Host, HostUnreachable
from orchestrator.latecomers import (
    SETTLE_AGE_S,
    expired_rescues,
    give_back_latecomers,
    give_back_strays,
    latecomers,
    strays,
)
from orchestrator.ledger import Ledger, MachineRecord
from orchestrator.lifecycle import Facts, Keeps, Standing, State, Wish
from orchestrator.phases import provision, release
from orchestrator.spec import Compute, Limits, RunSpec, Subject, spec_to_json
from orchestrator.spec_data import Data
from orchestrator.wiring import Wiring
from providers.api import Access, BootPlan, Machine, MachineId, Offer
from providers.errors import MachineGone
from providers.registry import ProviderContext, load_provider
from providers.testing.faults import CloudFault, Mishap
from providers.testing.simulated_cloud import SimulatedCloud
from remote_trainer import wire
from tests.unit.rented_world import World, made, stopped


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from made(tmp_path, Limits())


# ---- what comes late -----------------------------------------------------------------------------------------------


class _Overtakes(SimulatedCloud):
    """While `create` is on its way another driver takes the run over, and believes that nothing came of it."""

    ledger: Ledger
    believes_absent: bool

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        made = super().create(offer, boot, tag)
        epoch = self.ledger.become_driver("dog")
        if self.believes_absent:
            self.ledger.record_absent("dog", epoch, tag)
        return made


@pytest.mark.parametrize("believes_absent", [True, False])
def test_a_driver_overtaken_in_create_leaves_no_machine_to_nobody(world: World, believes_absent: bool) -> None:
    cloud = _Overtakes(world.clock)
    cloud.ledger, cloud.believes_absent = world.ledger, believes_absent
    with pytest.raises(StaleDriver):
        provision.create(replace(world.context, provider=cloud), Facts())
    world.clock.sleep(60)
    assert len(cloud.living()) == (0 if believes_absent else 1)
    expected = Standing.HELD if believes_absent else Standing.UNSETTLED
    assert [machine.standing for machine in world.ledger.machines("dog")] == [expected]


def test_a_machine_that_shows_up_after_it_was_given_up_is_given_back_and_billed_until_then(world: World) -> None:
    world.cloud.arm(Mishap(CloudFault.LOST_ANSWER))
    world.cloud.arm(Mishap(CloudFault.LISTED_LATE, amount=1000.0))
    provision.create(world.context, Facts())
    provision.settle(world.context, Facts())
    assert world.ledger.open_machines() == [], "two empty lists were believed"
    world.clock.sleep(1200)
    due = latecomers(world.ledger.machines("dog"), world.clock.now())
    give_back_latecomers(world.cloud, world.ledger, due, world.told.note)
    assert [machine.machine_id for machine in world.ledger.open_machines()] == ["m1"]
    world.clock.sleep(60)
    newer = world.rented()
    left = strays(world.ledger.machines("dog"), [world.ledger.run("dog")])
    assert [machine.machine_id for machine in left] == ["m1"]
    give_back_strays(world.cloud, world.ledger, left, world.clock, world.told.note)
    assert world.ledger.open_machines() == [newer]


def test_after_a_day_nobody_looks_any_more(world: World) -> None:
    world.cloud.arm(Mishap(CloudFault.NO_CAPACITY))
    provision.create(world.context, Facts())
    machines = world.ledger.machines("dog")
    assert latecomers(machines, world.clock.now() + 86000)
    assert not latecomers(machines, world.clock.now() + 87000)


def test_a_stopped_disk_is_given_up_when_its_hours_are_over_even_if_nobody_drives_its_run(world: World) -> None:
    stopped(world, world.shipped_and_done)
    machine = world.machine()
    assert machine.keeps_since is not None

    def expired(hours_later: float, *, driven: bool = False) -> list[MachineRecord]:
        now = (machine.keeps_since or 0.0) + hours_later * 3600
        return expired_rescues([machine], lambda _: 72.0, lambda _: driven, now)

    assert expired(71.9) == []
    assert expired(72.1) == [machine]
    assert expired(72.1, driven=True) == [], "its driver gives it up by itself"
    give_back_strays(world.cloud, world.ledger, expired(72.1), world.clock, world.told.note)
    world.clock.sleep(60)
    give_back_strays(world.cloud, world.ledger, expired(72.1), world.clock, world.told.note)
    assert world.machine().standing is Standing.ABSENT
    assert not world.cloud.living()


class _ShowsLate(SimulatedCloud):
    """Its machines can be neither seen nor released before `shows_from_s`, though they are there and bill."""

    shows_from_s = 100.0

    def describe(self, machine: MachineId) -> Machine:
        if self._clock.monotonic() < self.shows_from_s:
            raise MachineGone(f"there is no machine {machine}")
        return super().describe(machine)

    def release(self, machine: MachineId) -> None:
        if self._clock.monotonic() >= self.shows_from_s:
            super().release(machine)


def rented_late(world: World) -> _ShowsLate:
    cloud = _ShowsLate(world.clock)
    world.context = replace(world.context, provider=cloud)
    provision.create(world.context, Facts())
    return cloud


def test_a_machine_that_shows_only_after_it_was_given_back_is_given_back_again(world: World) -> None:
    cloud = rented_late(world)
    release.release(world.context, Facts())
    assert not cloud.living()
    assert world.machine().standing is Standing.ABSENT
    assert world.clock.monotonic() > 100


def test_a_machine_that_never_shows_is_believed_absent_when_it_is_three_minutes_old(world: World) -> None:
    rented_late(world).shows_from_s = 1e6
    release.release(world.context, Facts())
    assert SETTLE_AGE_S <= world.clock.monotonic() < SETTLE_AGE_S + 20
    assert any("does not show yet" in note for note in world.told.notes)


def test_a_machine_that_shows_is_given_back_in_seconds(world: World) -> None:
    provision.create(world.context, Facts())
    release.release(world.context, Facts())
    assert world.clock.monotonic() < 30


def test_a_machine_that_has_answered_and_ended_by_itself_is_believed_absent_at_once(world: World) -> None:
    machine = world.rented()
    before = world.clock.monotonic()
    for leaving, to in ((State.PLANNED, State.PROVISIONING), (State.PROVISIONING, State.SHIPPING)):
        world.ledger.move("dog", world.context.epoch, leaving, to, "")
    assert machine.machine_id is not None
    world.cloud.release(machine.machine_id)
    world.clock.sleep(15)
    release.release(world.context, Facts())
    assert world.clock.monotonic() - before < 30


# ---- down ----------------------------------------------------------------------------------------------------------


def test_a_machine_of_ones_own_that_is_gone_for_good_can_be_given_up_but_only_by_a_person(
    world: World, tmp_path: Path
) -> None:
    options: dict[str, str | int | None] = {"host": "gpu-box"}
    box = load_provider("ssh", ProviderContext(tmp_path / "ssh", options=options))

    def unreachable(_access: Access) -> Host:
        raise HostUnreachable("gpu-box does not answer", "ssh gpu-box true")

    context = replace(world.context, provider=box, machine_stands=True, connect=unreachable)
    provision.create(context, Facts())
    world.ledger.set_wish("dog", Wish.DOWN)
    with pytest.raises(HostUnreachable) as caught:
        release.release(context, Facts())
    assert "`cloudbooth down dog --force`" in caught.value.hint
    assert world.machine().standing is Standing.HELD
    world.ledger.set_wish("dog", Wish.ABANDON)
    release.release(context, Facts())
    assert world.machine().standing is Standing.ABSENT
    assert any("what still runs there goes on" in note for note in world.told.notes)


def test_down_names_what_a_rented_machine_holds_alone(world: World, tmp_path: Path) -> None:
    wiring = Wiring(Home(tmp_path), world.clock, world.ledger, world.connect)
    run = world.ledger.run("dog")
    assert lost_by_down(wiring, run) is None, "nothing is rented"
    world.rented()
    assert lost_by_down(wiring, run) is None, "nothing has been trained"
    log = wiring.home.run("dog").events("1")
    log.parent.mkdir(parents=True)
    log.write_bytes(wire.encode_event(wire.StepDone(40, 100, 0.1, 1e-4, 1.0), 1, 0.0))
    loss = lost_by_down(wiring, run)
    assert loss is not None
    assert loss.words == "run `dog` is at step 40 of 100, and no checkpoint is here"
    log.write_bytes(wire.encode_event(wire.Done(100, "sha"), 2, 0.0))
    loss = lost_by_down(wiring, run)
    assert loss is not None
    assert (loss.keeps, "holds the finished model alone" in loss.words) == (Keeps.MODEL, True)
    world.ledger.record_artifact("dog", "output", 100, tmp_path, "sha")
    assert lost_by_down(wiring, run) is None, "it is here"


def test_down_names_a_run_that_uses_the_kept_machine(world: World, tmp_path: Path) -> None:
    wiring = Wiring(Home(tmp_path), world.clock, world.ledger, world.connect)
    machine = world.rented()
    way = (State.PLANNED, State.PROVISIONING, State.SHIPPING, State.TRAINING, State.RETRIEVING, State.KEEPING)
    for leaving, to in pairwise(way):
        if world.ledger.run("dog").state is leaving:
            world.ledger.move("dog", world.context.epoch, leaving, to, "as a run goes")
    assert lost_by_down(wiring, world.ledger.run("dog")) is None, "nobody uses it"
    compute = Compute(provider="simulated", machine=str(machine.machine_id))
    spec = RunSpec(name="cat", subject=Subject(instance_prompt="a cat"), data=Data(instance=tmp_path), compute=compute)
    world.ledger.add_run("cat", "simulated", spec_to_json(spec), "{}")
    loss = lost_by_down(wiring, world.ledger.run("dog"))
    assert loss is not None
    assert loss.words == "run `cat` uses the machine that run `dog` keeps"
