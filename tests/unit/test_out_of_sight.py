"""A machine that nobody hears: when it is lost, and when it only cannot be seen from here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cli.driving import has_its_limit
from orchestrator.driver import drive
from orchestrator.errors import StaleDriver, WishChanged
from orchestrator.host import Host, HostUnreachable
from orchestrator.lifecycle import Do, EndReason, Facts, Keeps, Move, Phase, Standing, State, Trouble, Wish, next_step
from orchestrator.phases import follow, provision, release
from orchestrator.phases.context import RunContext
from orchestrator.phases.loss import Loss, after_no_answer, declare_lost, look_again
from orchestrator.silence import LONGEST_GAP_S, Silence
from orchestrator.spec import Limits
from orchestrator.storage.api import StorageUnreachable, StoredObject
from orchestrator.storage.folder import FolderStore
from orchestrator.waiting import waits_of_a_driver
from providers.api import Access, MachineId
from providers.errors import CloudboothError
from providers.retrying import RetryingProvider
from providers.testing.faults import CloudFault, Mishap
from providers.testing.simulated_cloud import SimulatedCloud
from remote_trainer import wire
from tests.unit.rented_world import World, made

MINUTE_S = 60.0
HOUR_S = 3600.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from made(tmp_path, Limits())


class _Connected(BaseException):
    """Somebody has connected to the machine: here a test has seen what it wanted to see."""


def connecting(world: World, from_s: float) -> Callable[[Access], Host]:
    """Its SSH port answers from a moment on."""

    def connect(_access: Access) -> Host:
        if world.clock.monotonic() < from_s:
            raise HostUnreachable("no route to host")
        raise _Connected

    return connect


def trains(world: World, of: int = 10_000) -> None:
    """The laptop has shipped, and has heard the first hundred steps, of a second each."""
    world.rented()
    home = world.context.home
    home.sent_job.parent.mkdir()
    job = wire.Job("dog", "dog", "builtin:tiny", wire.TrainSpec(), (), ("diffusers",), machine=world.machine().tag)
    home.sent_job.write_bytes(wire.dumps(job))
    events: list[wire.Event] = [wire.PhaseStarted("train")]
    events += [wire.StepDone(step, of, 0.1, 1e-4, 1.0) for step in range(10, 101, 10)]
    lines = [wire.encode_event(event, seq, float(10 * seq)) for seq, event in enumerate(events)]
    home.events("1").write_bytes(b"".join(lines))
    for leaving, to in ((State.PLANNED, State.PROVISIONING), (State.PROVISIONING, State.SHIPPING),
                        (State.SHIPPING, State.TRAINING)):  # fmt: skip
        world.ledger.move("dog", world.context.epoch, leaving, to, "")


def driven(world: World, reachable_from_s: float) -> RunContext:
    provider = RetryingProvider(world.cloud, world.clock.sleep, world.told.note)
    return replace(world.context, provider=provider, connect=connecting(world, reachable_from_s))


# ---- offline -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offline_s", [9 * MINUTE_S, 14 * MINUTE_S, 16 * MINUTE_S, 5 * HOUR_S])
def test_a_laptop_that_was_offline_finds_its_machine_training(world: World, offline_s: float) -> None:
    trains(world)
    online_s = world.clock.monotonic() + offline_s
    world.cloud.arm(Mishap(CloudFault.OUTAGE, amount=offline_s))
    with pytest.raises(_Connected):
        follow.follow(driven(world, online_s), Facts(heard_at_s=world.clock.monotonic()))
    assert world.clock.monotonic() - online_s < 2 * MINUTE_S
    assert world.machine().trouble is None


def test_a_laptop_that_slept_between_two_looks_has_not_seen_the_machine_silent() -> None:
    silence = Silence().seen(0.0).seen(60.0)
    assert silence.lasted_s == 60.0
    assert silence.seen(60.0 + LONGEST_GAP_S + 8 * HOUR_S).lasted_s == 0.0
    assert silence.unseen().seen(90.0).lasted_s == 0.0


# ---- another network -----------------------------------------------------------------------------------------------


def test_a_machine_that_only_this_network_does_not_let_us_reach_trains_on_and_the_user_is_told(world: World) -> None:
    trains(world)
    blocked_until_s = world.clock.monotonic() + 2 * HOUR_S
    with pytest.raises(_Connected):
        follow.follow(driven(world, blocked_until_s), Facts())
    assert world.machine().trouble is None
    assert not world.cloud.rentals[world.cloud.living()[0].id].stopped
    told = [note for note in world.told.notes if "`cloudbooth down dog`" in note]
    assert len(told) == 2, "after ten minutes, and an hour later"
    assert "has not answered this computer for 10 min" in told[0]


def test_a_machine_that_runs_silently_when_its_money_is_gone_is_lost(tmp_path: Path) -> None:
    for world in made(tmp_path, Limits(max_cost_usd=1.0)):
        trains(world)
        facts = follow.follow(driven(world, 24 * HOUR_S), Facts())
        assert "has not answered for" in facts.machine_lost
        assert world.machine().trouble is Trouble.LOST
        assert world.cloud.spent_usd() == pytest.approx(1.0 - world.machine().rescue_usd, abs=0.01)


def test_a_silent_machine_that_nothing_was_sent_to_is_lost_after_ten_minutes(world: World) -> None:
    world.rented()
    context, facts = driven(world, 24 * HOUR_S), Facts()
    began_s = world.clock.monotonic()
    while not facts.machine_lost:
        facts = after_no_answer(context, facts)
        world.clock.sleep(30)
    assert 10 * MINUTE_S < world.clock.monotonic() - began_s < 12 * MINUTE_S


def test_a_new_driver_knows_that_a_stopped_machine_had_no_time_to_finish(world: World) -> None:
    trains(world)
    world.clock.sleep(HOUR_S)
    loss = Loss(Trouble.PREEMPTED, "the machine has been stopped", stopped=True)
    assert declare_lost(world.context, Facts(), loss).keeps is Keeps.NOTHING
    world.clock.sleep(2 * HOUR_S)
    assert declare_lost(world.context, Facts(), loss).keeps is Keeps.UNKNOWN, "by now it may have"


# ---- before it is given back ---------------------------------------------------------------------------------------


def lost(world: World) -> None:
    world.ledger.record_trouble(
        "dog", world.context.epoch, world.machine().tag, Trouble.LOST, "silent", Keeps.NOTHING, stopped=False
    )


def test_a_lost_machine_is_asked_once_more_before_it_is_given_back() -> None:
    assert next_step(State.RECOVERING, Wish.RUN, None, Standing.HELD, Facts()) == Do(Phase.LOOK_AGAIN)
    silent = Facts(looked_again=True)
    assert next_step(State.RECOVERING, Wish.RUN, None, Standing.HELD, silent) == Do(Phase.RELEASE)
    back = next_step(State.RECOVERING, Wish.RUN, None, Standing.HELD, replace(silent, answers_again=True))
    assert back == Move(State.PROVISIONING, "the machine answers after all")


def test_a_machine_that_stays_silent_when_asked_again_is_not_taken_back(world: World) -> None:
    trains(world)
    lost(world)
    assert look_again(driven(world, 24 * HOUR_S), Facts()) == Facts(looked_again=True)


def test_a_lost_machine_is_connected_to_before_it_is_given_back(world: World) -> None:
    trains(world)
    lost(world)
    with pytest.raises(_Connected):
        look_again(driven(world, 0.0), Facts())


# ---- with a store that does not answer -----------------------------------------------------------------------------


class _Away(FolderStore):
    """Nothing in it can be asked for."""

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        raise StorageUnreachable("the store does not answer")


def test_a_loss_is_on_record_and_the_machine_given_back_although_the_store_is_away(
    world: World, tmp_path: Path
) -> None:
    trains(world)
    context = replace(world.context, store=_Away(tmp_path / "store"))
    facts = declare_lost(context, Facts(), Loss(Trouble.LOST, "silent"))
    assert facts.machine_lost == "silent"
    assert world.machine().trouble is Trouble.LOST
    step = next_step(State.TRAINING, Wish.RUN, None, Standing.HELD, replace(facts, keeps=Keeps.NOTHING))
    assert step == Move(State.RECOVERING, "silent")
    assert any("the store does not answer" in note for note in world.told.notes)


def test_no_machine_is_rented_after_a_loss_before_the_store_has_been_asked(world: World, tmp_path: Path) -> None:
    trains(world)
    context = replace(world.context, store=_Away(tmp_path / "store"))
    declare_lost(context, Facts(), Loss(Trouble.LOST, "silent"))
    release.release(context, Facts())
    with pytest.raises(StorageUnreachable):
        provision.create(context, Facts())
    assert not world.cloud.living(), "and nothing bills meanwhile"


def test_a_machine_that_nothing_was_sent_to_is_lost_without_asking_the_store(world: World, tmp_path: Path) -> None:
    world.rented()
    context = replace(world.context, store=_Away(tmp_path / "store"))
    declare_lost(context, Facts(), Loss(Trouble.BROKEN, "it never answered"))
    assert not world.told.notes[1:]


def test_a_model_that_is_found_in_the_store_later_ends_the_run() -> None:
    step = next_step(State.PROVISIONING, Wish.RUN, None, Standing.ABSENT, Facts(model_home=True))
    assert isinstance(step, Move)
    assert (step.to, step.reason) == (State.RELEASING, EndReason.DONE)


# ---- given back, and still there -----------------------------------------------------------------------------------


class _Deaf(SimulatedCloud):
    """Accepts every release, and does nothing."""

    asked = 0

    def release(self, machine: MachineId) -> None:
        self.asked += 1


def test_a_release_without_effect_is_repeated_told_and_at_last_left_to_a_person(world: World) -> None:
    cloud = _Deaf(world.clock)
    world.cloud, world.context = cloud, replace(world.context, provider=cloud)
    world.rented()
    with pytest.raises(CloudboothError, match="may still bill") as caught:
        release.release(world.context, Facts())
    assert "in the console of simulated; then `cloudbooth attach dog`" in caught.value.hint
    assert 5 < cloud.asked < 15
    assert "still exists 6" in next(note for note in world.told.notes if "asking again" in note), "after a minute"
    assert world.machine().standing is Standing.HELD


def test_a_driver_that_waits_for_a_provider_gives_way_within_seconds(world: World) -> None:
    wait = waits_of_a_driver(world.ledger, world.clock, "dog", world.context.epoch)
    wait(60.0)
    assert world.clock.monotonic() == pytest.approx(60.0)
    world.ledger.become_driver("dog")
    with pytest.raises(StaleDriver):
        wait(900.0)
    assert world.clock.monotonic() < 70.0


def _asks_for_its_end(world: World, in_s: float, wish: Wish = Wish.DOWN) -> None:
    """Another process, a while from now."""
    world.clock.after(in_s, lambda: world.ledger.set_wish("dog", wish))


@pytest.mark.parametrize("wish", [Wish.STOP, Wish.DOWN])
def test_a_wait_for_a_provider_ends_when_the_user_wants_the_run_to_end(world: World, wish: Wish) -> None:
    wait = waits_of_a_driver(world.ledger, world.clock, "dog", world.context.epoch)
    _asks_for_its_end(world, 30.0, wish)
    with pytest.raises(WishChanged):
        wait(900.0)
    assert world.clock.monotonic() < 35.0


def test_down_during_an_outage_ends_a_run_that_looks_for_a_machine(world: World) -> None:
    waits = waits_of_a_driver(world.ledger, world.clock, "dog", world.context.epoch)
    provider = RetryingProvider(world.cloud, waits, world.told.note)
    world.cloud.arm(Mishap(CloudFault.OUTAGE, amount=6 * MINUTE_S))
    _asks_for_its_end(world, 30.0)
    assert drive(replace(world.context, provider=provider)) is EndReason.CANCELED
    assert world.clock.monotonic() < 35.0


def test_a_machine_is_given_back_through_an_outage_although_its_end_was_asked_for(world: World) -> None:
    world.rented()
    world.ledger.set_wish("dog", Wish.DOWN)
    waits = waits_of_a_driver(world.ledger, world.clock, "dog", world.context.epoch)
    provider = RetryingProvider(world.cloud, waits, world.told.note)
    world.cloud.arm(Mishap(CloudFault.OUTAGE, amount=5 * MINUTE_S))
    assert drive(replace(world.context, provider=provider)) is EndReason.CANCELED
    assert not world.cloud.living()


def test_only_a_machine_that_was_sent_its_job_keeps_the_limit_that_came_with_it(world: World) -> None:
    assert not has_its_limit(world.ledger, world.context.home)
    trains(world)
    assert has_its_limit(world.ledger, world.context.home)
    world.context.settle_absent(world.machine().tag)
    assert not has_its_limit(world.ledger, world.context.home), "the next one gets what --max-cost says"
