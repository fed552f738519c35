"""The folder of a finished run on a network volume: it is removed while its machine is still there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.lifecycle import EndReason, Facts, Standing, State
from orchestrator.phases import release
from orchestrator.phases.context import RunContext
from orchestrator.spec import Limits
from tests.simulation.computer import Computer
from tests.simulation.host import SimulatedHost
from tests.unit.rented_world import WithVolume, World, made
from tests.unit.test_revival import Nobody
from tests.unit.test_shipping import TRAINING


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from made(tmp_path, Limits(), cloud_of=WithVolume, volume="vol")


def finished(world: World) -> RunContext:
    """Its model is home, and the machine is to be given back."""
    world.rented()
    way = (State.PLANNED, State.PROVISIONING, State.SHIPPING, State.TRAINING, State.RETRIEVING)
    for leaving, to in pairwise(way):
        reason = EndReason.DONE if to is State.RETRIEVING else None
        world.ledger.move("dog", world.context.epoch, leaving, to, "as a run goes", reason)
    return replace(world.context, run=world.ledger.run("dog"))


def test_it_is_removed_photos_included(world: World, tmp_path: Path) -> None:
    context = finished(world)
    computer = Computer("m1", tmp_path / "disk", world.clock, TRAINING, Nobody())
    context = replace(context, connect=lambda _access: SimulatedHost(computer, Nobody()))
    folder = Path(context.open_remote().folder)
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "photo.png").write_bytes(b"a face")
    release.release(context, Facts())
    assert not folder.exists()
    assert not world.cloud.living()


def test_a_machine_that_lets_nobody_in_is_given_back_all_the_same_and_the_user_told(world: World) -> None:
    release.release(finished(world), Facts())
    assert len(world.asked) == 1, "it bills, so it is tried once"
    [told] = [note for note in world.told.notes if "stays on the volume vol, photos included" in note]
    assert "another host key" in told
    assert not world.cloud.living()
    assert world.machine().standing is Standing.ABSENT


def test_a_machine_that_is_gone_is_not_connected_to(world: World) -> None:
    context = finished(world)
    world.cloud.vanish(world.cloud.living()[0].id)
    release.release(context, Facts())
    assert not world.asked
    assert world.machine().standing is Standing.ABSENT


def test_of_a_run_that_was_stopped_it_stays_for_resume(world: World) -> None:
    finished(world)
    stopped = replace(world.ledger.run("dog"), reason=EndReason.STOPPED)
    release.release(replace(world.context, run=stopped), Facts())
    assert not world.asked
