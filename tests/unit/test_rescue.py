"""Stopped machines, and those on a network volume: found again, or given back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.at_stake import lost_by_down
from orchestrator.budget import spent_usd
from orchestrator.home import Home
from orchestrator.lifecycle import Facts, Keeps, Move, Standing, State, Trouble, Wish, next_step
from orchestrator.phases import provision, rescue
from orchestrator.spec import Limits
from orchestrator.wiring import Wiring
from providers.api import BootPlan, GpuRequest, MachineId
from providers.errors import NoCapacity
from providers.testing.faults import CloudFault, Mishap
from remote_trainer import wire
from tests.unit.rented_world import WithVolume, World, made, stopped


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from made(tmp_path, Limits())


# ---- rescue --------------------------------------------------------------------------------------------------------


def test_a_stopped_machine_with_the_model_is_started_again(world: World) -> None:
    facts = stopped(world, world.shipped_and_done)
    assert facts.keeps is Keeps.MODEL
    assert world.machine().stopped
    assert rescue.revive(world.context, facts).revived
    assert not world.machine().stopped
    assert not world.cloud.rentals[MachineId("m1")].stopped


def test_a_stopped_machine_that_nothing_was_sent_to_holds_nothing(world: World) -> None:
    assert stopped(world).keeps is Keeps.NOTHING


def test_a_model_on_a_machine_that_cannot_be_started_is_kept_and_its_price_told(world: World) -> None:
    facts = stopped(world, world.shipped_and_done)
    for _ in range(200):
        world.cloud.arm(Mishap(CloudFault.NO_RESTART))
    with pytest.raises(NoCapacity) as caught:
        rescue.revive(world.context, facts)
    day = f"${world.machine().disk_per_day_usd:.2f} a day"
    assert "holds the finished model alone" in caught.value.message
    assert day in caught.value.message
    assert "`cloudbooth down dog` gives the disk up" in caught.value.hint
    assert [rental.stopped for rental in world.cloud.living()] == [True]


def test_what_a_stopped_disk_cost_is_what_the_cloud_has_metered(world: World) -> None:
    stopped(world, world.shipped_and_done)
    world.clock.sleep(86400)
    mine = spent_usd([world.machine()], world.clock.now())
    assert mine == pytest.approx(world.cloud.spent_usd(), abs=0.001)
    assert mine < world.machine().price_per_hour_usd


def test_a_mere_checkpoint_is_given_up_when_the_machine_does_not_start(world: World) -> None:
    facts = stopped(world)
    world.ledger.record_trouble(
        "dog", world.context.epoch, world.machine().tag, Trouble.LOST, "", Keeps.CHECKPOINT, stopped=True
    )
    for _ in range(200):
        world.cloud.arm(Mishap(CloudFault.NO_RESTART))
    facts = rescue.revive(world.context, facts)
    assert "has no free GPU; the run goes on from the newest checkpoint" in facts.not_revived
    assert world.clock.monotonic() < 600


# ---- on a network volume -------------------------------------------------------------------------------------------


@pytest.fixture
def on_volume(tmp_path: Path) -> Iterator[World]:
    yield from made(tmp_path, Limits(), cloud_of=WithVolume, volume="vol")


def test_a_machine_is_rented_with_the_volume_of_the_spec(on_volume: World) -> None:
    on_volume.rented()
    assert on_volume.cloud.rentals[MachineId("m1")].boot.volume == "vol"


def test_a_lost_machine_holds_nothing_alone_whose_volume_outlives_it(on_volume: World) -> None:
    facts = stopped(on_volume, on_volume.shipped_and_done)
    assert facts.keeps is Keeps.NOTHING, "the next machine finds the model"
    step = next_step(State.TRAINING, Wish.RUN, None, Standing.HELD, facts)
    assert isinstance(step, Move)
    assert step.to is State.RECOVERING


def test_who_comes_second_waits_for_the_volume_and_rents_nothing_meanwhile(on_volume: World) -> None:
    [offer] = list(on_volume.cloud.offers(GpuRequest()))[:1]
    other = on_volume.cloud.create(offer, BootPlan(volume="vol"), "cb-other-cat-1-1790000000")
    facts = provision.create(on_volume.context, Facts())
    assert "the volume vol is in use by the machine cb-other-cat-1-1790000000" in "\n".join(on_volume.told.notes)
    assert on_volume.context.machine() is None
    on_volume.cloud.release(other)
    on_volume.clock.sleep(600)
    provision.create(on_volume.context, facts)
    assert on_volume.machine().machine_id is not None


def test_a_machine_of_ones_own_keeps_nobody_from_the_volume(on_volume: World) -> None:
    [offer] = list(on_volume.cloud.offers(GpuRequest()))[:1]
    on_volume.cloud.create(offer, BootPlan(volume="vol"), "my-notebook")
    on_volume.rented()


def test_down_loses_no_checkpoint_that_lies_on_a_volume(on_volume: World, tmp_path: Path) -> None:
    wiring = Wiring(Home(tmp_path), on_volume.clock, on_volume.ledger, on_volume.connect)
    run = on_volume.ledger.run("dog")
    on_volume.rented()
    log = wiring.home.run("dog").events("1")
    log.parent.mkdir(parents=True)
    committed = wire.encode_event(wire.CheckpointCommitted(40, wire.checkpoint_folder(40), "sha", 1), 1, 0.0)
    log.write_bytes(committed)
    assert lost_by_down(wiring, run) is None
    log.write_bytes(committed + wire.encode_event(wire.StepDone(60, 100, 0.1, 1e-4, 1.0), 2, 0.0))
    loss = lost_by_down(wiring, run)
    assert loss is not None
    assert loss.words == "run `dog` is at step 60 of 100, and the newest checkpoint on its volume is of step 40"
