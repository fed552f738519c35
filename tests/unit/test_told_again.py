"""What the driver does while a run is followed: it tells again what was not heard, and lets no store hold it up."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from orchestrator.budget import reserve_s
from orchestrator.driver import drive_until
from orchestrator.host import ConnectionLost, Host
from orchestrator.keeping import paid_for_s
from orchestrator.lifecycle import State
from orchestrator.phases.context import RunContext
from orchestrator.spec import RunSpec, spec_to_json
from providers.api import MachineId, Market, Offer
from remote_trainer import wire
from tests.simulation.computer import Computer
from tests.simulation.host import SimulatedHost
from tests.simulation.job import RUN
from tests.simulation.store import SimulatedStore
from tests.simulation.world import World
from tests.unit.test_pulling import Undriven
from tests.unit.test_shipping import TRAINING, rented

KEPT = MachineId("kept")


# ---- what was not heard ----------------------------------------------------------------------------------------------


class HardOfHearing(SimulatedHost):
    """The first call that says what came home breaks every connection and is not heard."""

    def _do(self, verb: str, argv: Sequence[str], chunks: Iterable[bytes]) -> bytes:
        world = self._passages
        assert isinstance(world, Unheard)
        if verb != "saved":
            return super()._do(verb, argv, chunks)
        said = json.loads(argv[argv.index("--manifests") + 1])
        world.home_said += said
        if len(world.home_said) > 1:
            return super()._do(verb, argv, chunks)
        self._computer.connections += 1
        raise ConnectionLost("the connection broke")


class Unheard(World):
    def __init__(self) -> None:
        self.home_said: list[str] = []
        super().__init__(replace(rented(TRAINING), courier=True, faults=()))

    def make_host(self, computer: Computer) -> Host:
        return HardOfHearing(computer, self)


def test_what_is_home_is_said_again_at_the_next_contact() -> None:
    world = Unheard()
    try:
        outcome = world.play()
        assert outcome.violation is None
        assert world.home_said[0] == world.home_said[1], "the first was lost"
        artifacts = world.ledger.artifacts(RUN)
        assert {artifact.manifest_sha256 for artifact in artifacts} == set(world.home_said), "the model's too"
        arrived = [line for line in outcome.trace if "checkpoint arrived" in line]
        assert len(arrived) == len(artifacts) - 2, "the first was cut short, and not fetched again"
    finally:
        world.close()


# ---- a store that takes its time -------------------------------------------------------------------------------------


class Threaded(World):
    """Puts together in a thread what the machine has uploaded, as on a laptop. Looks which thread composes."""

    def __init__(self) -> None:
        super().__init__(replace(rented(TRAINING), storage=True, faults=()))
        store = self.store
        assert isinstance(store, SimulatedStore)
        self.composing: set[str] = set()
        compose = store.compose

        def noted(*args: object, **kwargs: object) -> object:
            self.composing.add(threading.current_thread().name)
            return compose(*args, **kwargs)  # type: ignore[arg-type]

        store.compose = noted  # type: ignore[method-assign,assignment]

    def _context(self, epoch: int) -> RunContext:
        return replace(super()._context(epoch), settles_inline=False)


def test_uploads_are_put_together_beside_the_events() -> None:
    world = Threaded()
    try:
        assert world.play().violation is None
        assert "storekeeper" in world.composing
        assert not [thread for thread in threading.enumerate() if thread.name == "storekeeper"]
    finally:
        world.close()


# ---- on a machine that another run keeps -----------------------------------------------------------------------------


class OnKept(Undriven):
    def make_spec(self) -> RunSpec:
        spec = super().make_spec()
        return spec.model_copy(update={"compute": spec.compute.model_copy(update={"machine": str(KEPT)})})


def test_a_run_on_a_kept_machine_has_the_time_that_its_keeper_pays_for() -> None:
    world = OnKept(replace(rented(TRAINING), standing=True, boot_s=0.0, faults=()))
    try:
        ledger = world.ledger
        ledger.add_run("keeper", "simulated", spec_to_json(world.spec), "{}")
        epoch = ledger.become_driver("keeper")
        offer = Offer("simulated", "offer", "GPU", 1, 24.0, Market.ON_DEMAND, 12.5)
        ledger.record_intent(ledger.run("keeper"), epoch, "cb-x-keeper", offer)
        ledger.record_created("keeper", epoch, "cb-x-keeper", KEPT)
        [kept] = ledger.machines("keeper")
        context = world._context(ledger.become_driver(RUN))
        assert drive_until(context, State.TRAINING)
        job = wire.loads(wire.Job, context.home.sent_job.read_bytes())
        assert job.limit_s == pytest.approx(paid_for_s(ledger, kept, world.clock.now()), abs=10.0)
        assert job.limit_s == pytest.approx(4 * 3600, abs=10.0), "50 dollars at 12.50 an hour"
        assert job.reserve_s == reserve_s(job.limit_s)
    finally:
        world.close()
