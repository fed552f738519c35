"""A machine that stands on its own: it is never lost, and whoever asks for it hears soon when it does not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.driver import drive, drive_until
from orchestrator.errors import RunConflict, StaleDriver
from orchestrator.host import ConnectionLost, Host, HostUnreachable
from orchestrator.lifecycle import EndReason, Facts, Standing, State, Wish
from orchestrator.phases import provision
from orchestrator.phases.context import RunContext
from orchestrator.phases.persistence import until_down
from orchestrator.spec import Limits
from providers.api import Access
from providers.testing.faults import CloudFault, Mishap
from tests.unit.rented_world import World, made


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from made(tmp_path, Limits())


def own(world: World, tried: Callable[[], None] = lambda: None) -> RunContext:
    """The context of a run on a machine that stands, and that does not answer."""

    def connect(_access: Access) -> Host:
        tried()
        raise HostUnreachable("gpu-box does not answer")

    return replace(world.context, machine_stands=True, connect=connect)


def test_a_machine_that_does_not_answer_is_an_error_after_two_minutes_and_not_lost(world: World) -> None:
    with pytest.raises(HostUnreachable, match="gpu-box does not answer"):
        drive(own(world))
    assert world.clock.monotonic() == pytest.approx(provision.STANDING_TIMEOUT_S, abs=5.0)
    assert world.ledger.run("dog").state is State.PROVISIONING, "and goes on there"
    assert (world.machine().standing, world.machine().trouble) == (Standing.HELD, None)


def test_it_is_not_waited_for_once_the_run_is_not_wanted(world: World) -> None:
    context = own(world, lambda: world.ledger.set_wish("dog", Wish.STOP))
    provision.create(context, Facts())
    world.clock.sleep(60)  # until its address is known
    assert provision.await_ready(context, Facts()) == Facts()
    assert world.clock.monotonic() < 65.0


def test_an_unanswered_create_is_settled_by_two_looks_into_its_folder(world: World) -> None:
    world.cloud.arm(Mishap(CloudFault.LOST_REQUEST))
    context = own(world)
    provision.create(context, Facts())
    provision.settle(context, Facts())
    [intent] = world.ledger.machines("dog")
    assert intent.standing is Standing.ABSENT
    assert world.clock.monotonic() < 30.0, "a list in the cloud may lag for minutes"


# ---- going on --------------------------------------------------------------------------------------------------------


class Flaky:
    """Work whose connection breaks `times` times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> Facts:
        self.left -= 1
        if self.left >= 0:
            raise ConnectionLost("the connection to gpu-box broke")
        return Facts(retrieved=True)


def test_work_goes_on_after_every_lost_connection_with_longer_and_longer_pauses(world: World) -> None:
    assert until_down(own(world), Facts(), Flaky(7)).retrieved
    assert world.clock.monotonic() == pytest.approx(1 + 2 + 4 + 8 + 16 + 30 + 30)


def test_it_ends_within_a_second_of_the_wish_to_have_all_down(world: World) -> None:
    world.clock.after(40.0, lambda: world.ledger.set_wish("dog", Wish.DOWN))
    assert until_down(own(world), Facts(), Flaky(1000)) == Facts()
    assert world.clock.monotonic() == pytest.approx(40.0, abs=1.1)


def test_it_ends_when_another_process_drives_the_run(world: World) -> None:
    world.clock.after(40.0, lambda: world.ledger.become_driver("dog") and None)
    with pytest.raises(StaleDriver):
        until_down(own(world), Facts(), Flaky(1000))
    assert world.clock.monotonic() == pytest.approx(40.0, abs=1.1)


def test_on_a_rented_machine_the_first_lost_connection_is_the_drivers(world: World) -> None:
    with pytest.raises(ConnectionLost):
        until_down(world.context, Facts(), Flaky(1))
    assert world.clock.monotonic() == 0.0


# ---- no machine ------------------------------------------------------------------------------------------------------


def test_a_run_without_a_machine_has_none_to_talk_to(world: World) -> None:
    with pytest.raises(RunConflict, match="run `dog` has no machine"):
        world.context.open_remote()


def test_a_run_that_ends_on_its_way_is_not_driven_to_a_later_state(world: World) -> None:
    world.ledger.set_wish("dog", Wish.DOWN)
    assert not drive_until(world.context, State.TRAINING)
    run = world.ledger.run("dog")
    assert (run.state, run.reason) == (State.ENDED, EndReason.CANCELED)
