"""The user of a simulated laptop, who is patient: an error is answered by `attach`, three errors by `down`, and every
end that is not `done` by `resume`. That the laptop has no network is seen, and blamed on nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.budget import spent_usd
from orchestrator.lifecycle import EndReason, State, Wish
from tests.simulation.invariants import Invariant
from tests.simulation.job import RUN

if TYPE_CHECKING:
    from tests.simulation.world import World

MAX_DRIVERS = 60
BACK_TOMORROW = 4.7
"""As a power of ten of seconds: when a person looks at the run again, one time in ten."""
WORTH_RAISING_USD = 0.8
RAISE_USD = 2.0
"""The user who resumes a run that has less than the one left allows it the other more; of a small machine's prices."""


def until_done(world: World) -> None:
    """Drives the run until it is done, as often as that takes; what is violated comes out."""
    errors_in_a_row = 0
    while world.begun < MAX_DRIVERS:
        reason, failed = world.new_driver()
        was_offline = world.offline
        world.rules.at_home()
        if reason is EndReason.DONE:
            return
        world.clock.sleep(
            10 ** world.random.choice((*10 * (world.random.uniform(0, 2.5),), world.random.uniform(3, BACK_TOMORROW)))
        )
        if reason is not None:
            world.helped = True
            _raise_ceiling_if_needed(world)
            world.note("user: resume")
            world.ledger.start_attempt(RUN, world.ledger.become_driver(RUN))
        if not (failed and was_offline):
            errors_in_a_row = errors_in_a_row + 1 if failed else 0
        if errors_in_a_row >= 3 and world.run().state is not State.ENDED:
            world.helped = True
            world.note("user: down")
            world.ledger.set_wish(RUN, Wish.DOWN)
    state = world.run().state.value
    world.rules.violate(Invariant.IT_ENDS, f"after {world.begun} drivers the run is still {state}")


def _raise_ceiling_if_needed(world: World) -> None:
    world.rules.ceiling_holds()
    spent, factor = spent_usd(world.ledger.machines(RUN), world.clock.now()), world.schedule.price_factor
    if spent + factor * WORTH_RAISING_USD > world.max_cost_usd:
        world.raised = True
        world.max_cost_usd += factor * RAISE_USD
        world.spec = world.make_spec()
        world.note(f"user: up to ${world.max_cost_usd:.2f}")
