"""Something that billed and was over before anybody saw it, at a provider that keeps in sight what is over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from orchestrator.budget import spent_usd, unseen_usd
from orchestrator.latecomers import Ended, give_back_latecomers, give_back_strays, latecomers
from orchestrator.lifecycle import Facts, Standing
from orchestrator.phases import provision
from orchestrator.spec import Limits
from providers.testing.faults import CloudFault, Mishap
from providers.testing.simulated_cloud import SimulatedCloud
from providers.testing.virtual_clock import START
from tests.unit.rented_world import World, made

WORKED_S = 600.0


class KeepsInSight(SimulatedCloud):
    """Shows what is over, as services for jobs do."""

    def ended(self, prefix: str) -> Sequence[Ended]:
        return [
            Ended(rental.tag, rental.id, START + rental.created_s, rental.gone_s - rental.created_s)
            for rental in self.rentals.values()
            if rental.gone_s is not None and rental.tag.startswith(prefix)
        ]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from made(tmp_path, Limits(), cloud_of=KeepsInSight)


def over_unseen(world: World) -> None:
    """Two requests without an answer: of the first came a machine that showed in no list, of the second none."""
    world.cloud.arm(Mishap(CloudFault.LOST_ANSWER))
    world.cloud.arm(Mishap(CloudFault.LISTED_LATE, amount=1e6))
    world.clock.after(WORKED_S, lambda: world.cloud.vanish(world.cloud.living()[0].id))
    provision.create(world.context, Facts())
    provision.settle(world.context, Facts())
    world.cloud.arm(Mishap(CloudFault.LOST_REQUEST))
    provision.create(world.context, Facts())
    provision.settle(world.context, Facts())
    world.clock.sleep(2 * WORKED_S)


def look(world: World) -> None:
    due = latecomers(world.ledger.machines("dog"), world.clock.now())
    give_back_latecomers(world.context.provider, world.ledger, due, world.told.note)


def test_it_is_on_record_with_what_it_cost_and_told_once(world: World) -> None:
    over_unseen(world)
    look(world)
    look(world)
    first, second = world.ledger.machines("dog")
    assert spent_usd([first], world.clock.now()) == pytest.approx(world.cloud.spent_usd(), abs=0.001)
    assert (first.machine_id, first.standing) == ("m1", Standing.ABSENT)
    assert second.machine_id is None
    assert [unseen_usd([machine], world.clock.now()) > 0.0 for machine in (first, second)] == [False, True], (
        "what became of the other nobody knows"
    )
    told = [note for note in world.told.notes if "it is over and has cost" in note]
    assert told == [f"{first.tag} was at simulated after all; it is over and has cost $0.06"]


def test_where_nothing_is_kept_in_sight_its_cost_stays_a_foreboding(world: World) -> None:
    over_unseen(world)
    world.cloud.__class__ = SimulatedCloud
    look(world)
    machines = world.ledger.machines("dog")
    assert [machine.machine_id for machine in machines] == [None, None]
    assert unseen_usd(machines, world.clock.now()) > 0.0


def test_what_is_given_back_is_billed_until_its_real_end(world: World) -> None:
    """It was believed gone when a run ended, and shows as over when the next command looks."""
    machine = world.rented()
    world.cloud.vanish(world.cloud.living()[0].id)
    world.clock.sleep(5 * WORKED_S)
    give_back_strays(world.cloud, world.ledger, [machine], world.clock, world.told.note)
    record = world.machine()
    assert record.standing is Standing.ABSENT
    assert spent_usd([record], world.clock.now()) == pytest.approx(world.cloud.spent_usd(), abs=0.001)
