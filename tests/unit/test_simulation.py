"""Nothing breaks a rule in the simulated world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.boot_plan import boot_plan
from orchestrator.budget import spent_usd
from orchestrator.lifecycle import Trouble
from orchestrator.ssh.machine_keys import MachineKeys
from providers.api import GpuRequest
from providers.secret import Secret
from providers.testing.faults import CloudFault
from providers.testing.machine_calls import SELF_RELEASE
from providers.testing.simulated_cloud import SimulatedCloud
from providers.testing.virtual_clock import VirtualClock
from tests.simulation.guard import Program
from tests.simulation.job import RUN
from tests.simulation.kinds import TODAY, WorldFault
from tests.simulation.outcome import Outcome
from tests.simulation.schedule import Abilities, AtPassage, Planned, draw
from tests.simulation.world import World, play

SEEDS = 120
WITHIN_SEEDS = 1000


def test_no_schedule_breaks_a_rule() -> None:
    broken = [(o.seed, str(o.violation)) for o in map(play, map(draw, range(SEEDS))) if o.violation]
    assert not broken, "play it again with `python -m tests.simulation.run --seed N --verbose`"


def test_a_seed_plays_the_same_schedule_again() -> None:
    seed = 17
    first, second = (_without_random_names(play(draw(seed))) for _ in range(2))
    assert first == second


def test_an_undisturbed_run_needs_one_driver_one_machine_and_nobody() -> None:
    world = World(replace(draw(0), standing=False, boot_s=30.0))
    try:
        outcome = world.play()
        assert (outcome.violation, outcome.fired, outcome.drivers) == (None, (), 1)
        assert len(world.cloud.rentals) == 1
        assert not world.helped
    finally:
        world.close()


def _played(*faults: Planned) -> World:
    """A rented machine, plenty of money, and exactly these."""
    base = replace(draw(0), standing=False, boot_s=5.0, abilities=Abilities(), max_cost_usd=50.0, courier=True)
    training = replace(base.training, deadline_s=None)
    world = World(replace(base, training=training, faults=faults, chained=False))
    try:
        outcome = world.play()
        assert outcome.violation is None
        return world
    finally:
        world.close()


def test_a_laptop_that_slept_for_hours_asks_before_it_gives_the_machine_up() -> None:
    world = _played(AtPassage(WorldFault.ASLEEP, "chunk follow:before", 6, 2 * 3600.0))
    assert WorldFault.ASLEEP in world.misfortune.fired
    assert len(world.cloud.rentals) == 1


def test_a_machine_much_slower_than_quoted_is_left_for_another_before_the_ceiling_breaks() -> None:
    seed = next(seed for seed in range(WITHIN_SEEDS) if draw(seed).slow > 1)
    world = World(replace(draw(seed), faults=(), storage=False, keep_minutes=0.0))
    try:
        outcome = world.play()
        assert (outcome.violation, world.raised) == (None, False)
        slow, fast = world.ledger.machines(RUN)
        assert (slow.trouble, fast.trouble) == (Trouble.TOO_SLOW, None)
        assert slow.gpu != fast.gpu
        assert spent_usd([slow, fast], world.clock.now()) < world.max_cost_usd
    finally:
        world.close()


def test_a_machine_that_nobody_logs_into_runs_for_its_first_lease() -> None:
    offer = SimulatedCloud(VirtualClock()).offers(GpuRequest())[0]
    keys = MachineKeys(Path("key"), "ssh-ed25519 AAAA me", "ssh-ed25519 BBBB host", Secret("private", "a host key"))
    program = Program.of(boot_plan(offer, keys, SELF_RELEASE, None, 700.0).start_command)
    assert program is not None
    assert program.first_s == 700.0


@pytest.mark.parametrize("kind", TODAY, ids=lambda kind: kind.name)
def test_every_kind_of_fault_takes_effect(kind: CloudFault | WorldFault) -> None:
    assert any(kind in play(draw(seed, (kind,))).fired for seed in range(1, 40))


def _without_random_names(outcome: Outcome) -> tuple[object, ...]:
    """Everything but the installation's id, which is random, and the temporary folder."""
    return outcome.fired, outcome.drivers, outcome.virtual_s, outcome.billed_usd, outcome.states, len(outcome.trace)
