"""A machine on which the run would break its ceiling: when it is left for another, and when it is kept all the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from orchestrator.driver import drive, drive_until
from orchestrator.lifecycle import EndReason, State, Trouble, Wish
from orchestrator.phases.context import RunContext
from providers.api import BootPlan, GpuRequest, MachineId, MachineProvider, Offer
from providers.testing.simulated_cloud import SHELVES
from tests.fakes.told import Told
from tests.simulation.job import RUN
from tests.simulation.schedule import Training
from tests.simulation.seams import WatchedProvider
from tests.unit.test_pulling import Undriven
from tests.unit.test_shipping import rented

STEPS = Training(steps=400, step_s=0.4, checkpoint_every=30, deadline_s=None)
SLOWER = 60.0
STEP_USD = STEPS.step_s * SLOWER / 3600 * SHELVES[0].spot_usd
"""Of the slow machine; the other kind needs a quarter of an hour for everything."""
SOON_S = 700.0
"""By then the pace of the slow machine has shown."""


@contextmanager
def slow(pays_for_steps: float, kind: type[Undriven] = Undriven) -> Iterator[tuple[Undriven, RunContext, Told]]:
    world = kind(replace(rented(STEPS), slow=SLOWER, max_cost_usd=pays_for_steps * STEP_USD, faults=()))
    try:
        told = Told()
        context = replace(world._context(world.ledger.become_driver(RUN)), reporter=told)
        yield world, context, told
    finally:
        world.close()


def is_kept(world: Undriven, context: RunContext, told: Told) -> bool:
    """Whether the run is still on its first machine when its user has enough of it."""
    world.clock.after(SOON_S, lambda: world.ledger.set_wish(RUN, Wish.DOWN))
    assert drive(context) is EndReason.CANCELED
    [machine] = world.ledger.machines(RUN)
    assert any("above limits.max_cost_usd" in note for note in told.notes), "its user was told"
    return machine.trouble is None and not any("it goes there" in note for note in told.notes)


def test_it_is_left_with_a_checkpoint_for_one_that_finishes_within_the_ceiling() -> None:
    with slow(pays_for_steps=300.0) as (world, context, told):
        assert drive_until(context, State.RECOVERING)
        [machine] = world.ledger.machines(RUN)
        assert machine.trouble is Trouble.TOO_SLOW
        assert "with this machine the run would break its ceiling" in machine.trouble_why
        assert f"on {SHELVES[1].gpu} the rest is expected to cost" in machine.trouble_why
        [artifact] = world.ledger.artifacts(RUN)
        assert artifact.step > 20, "of its last step, which is no step at which checkpoints are made"
        assert artifact.step % STEPS.checkpoint_every != 0
        assert "asking the trainer for a checkpoint and its end" in told.notes
        assert drive_until(context, State.TRAINING)
        assert world.ledger.machines(RUN)[1].machine_id is not None
        assert world.cloud.rentals[world.cloud.living()[0].id].offer.gpu == SHELVES[1].gpu


def test_it_is_kept_where_the_other_might_break_the_ceiling_too() -> None:
    with slow(pays_for_steps=80.0) as (world, context, told):
        assert is_kept(world, context, told)


@dataclass
class OneHost(WatchedProvider):
    """Offers one machine alone, at the prices of two markets, which are part of its offers' ids."""

    def offers(self, want: GpuRequest) -> Sequence[Offer]:
        found = [offer for offer in super().offers(want) if offer.gpu == SHELVES[0].gpu]
        return [replace(offer, id=f"host-7/{offer.price_per_hour_usd}") for offer in found]

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        return super().create(replace(offer, id=f"{offer.gpu}/{offer.market.value}"), boot, tag)


class WithOneHost(Undriven):
    def make_provider(self) -> MachineProvider:
        return OneHost(self.cloud, self)


def test_it_is_not_left_for_itself_at_another_price() -> None:
    with slow(pays_for_steps=300.0, kind=WithOneHost) as (world, context, told):
        assert is_kept(world, context, told)


@dataclass
class SoldOut(WatchedProvider):
    """Has one machine to rent and then no other."""

    def offers(self, want: GpuRequest) -> Sequence[Offer]:
        return super().offers(want) if not self.cloud.rentals else []


class WithNothingElse(Undriven):
    def make_provider(self) -> MachineProvider:
        return SoldOut(self.cloud, self)


def test_it_is_kept_where_nothing_else_can_be_rented() -> None:
    with slow(pays_for_steps=300.0, kind=WithNothingElse) as (world, context, told):
        assert is_kept(world, context, told)
