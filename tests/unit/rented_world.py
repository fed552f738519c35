"""A run that rents, at a simulated cloud that never lets anybody in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.home import RunHome
from orchestrator.host import Host, HostKeyRejected
from orchestrator.ledger import Ledger, MachineRecord
from orchestrator.lifecycle import Facts, Trouble
from orchestrator.phases import provision
from orchestrator.phases.context import RunContext
from orchestrator.phases.loss import Loss, declare_lost
from orchestrator.spec import Compute, Limits, RunSpec, Subject, spec_to_json
from orchestrator.spec_data import Data
from providers.api import Access, SshAccess, Volume
from providers.testing.simulated_cloud import SimulatedCloud
from providers.testing.virtual_clock import VirtualClock
from remote_trainer import wire
from tests.fakes.told import Told


@dataclass
class World:
    clock: VirtualClock
    cloud: SimulatedCloud
    ledger: Ledger
    told: Told
    context: RunContext
    asked: list[SshAccess] = field(default_factory=list)
    """Every address that somebody wanted to connect to."""

    def connect(self, access: Access) -> Host:
        """Nobody is ever let in."""
        assert isinstance(access, SshAccess)
        self.asked.append(access)
        raise HostKeyRejected("it shows another host key")

    def machine(self) -> MachineRecord:
        return self.context.held_machine()

    def rented(self) -> MachineRecord:
        provision.create(self.context, Facts())
        self.clock.sleep(60)
        return self.machine()

    def shipped_and_done(self) -> None:
        """The laptop has heard that the model is finished, and has not fetched it."""
        home = self.context.home
        home.sent_job.parent.mkdir()
        job = wire.Job("dog", "dog", "builtin:tiny", wire.TrainSpec(), (), ("diffusers",), machine=self.machine().tag)
        home.sent_job.write_bytes(wire.dumps(job))
        home.events("1").write_bytes(wire.encode_event(wire.Done(10, "sha"), 1, 0.0))


class WithVolume(SimulatedCloud):
    """Its account has one network volume, which every machine has that was rented with it."""

    def volumes(self) -> Sequence[Volume]:
        mounted_by = tuple(rental.tag for rental in self.living() if rental.boot.volume == "vol")
        return [Volume("vol", "cache", "here", 100, 7.0, mounted_by)]


def made(
    tmp_path: Path,
    limits: Limits,
    market: str = "on-demand",
    cloud_of: Callable[[VirtualClock], SimulatedCloud] = SimulatedCloud,
    volume: str = "",
) -> Iterator[World]:
    clock, told = VirtualClock(), Told()
    cloud = cloud_of(clock)
    ledger = Ledger(tmp_path / "ledger.sqlite3", clock)
    spec = RunSpec(
        name="dog",
        subject=Subject(instance_prompt="a dog"),
        data=Data(instance=Path("photos")),
        compute=Compute(provider="simulated", market=market, volume=volume),  # type: ignore[arg-type]
        limits=limits,
    )
    ledger.add_run("dog", "simulated", spec_to_json(spec), "{}")
    home = RunHome(tmp_path / "dog")
    home.root.mkdir()
    world = World(clock, cloud, ledger, told, None)  # type: ignore[arg-type]  # each needs the other
    world.context = RunContext(
        ledger.run("dog"), ledger.become_driver("dog"), ledger, cloud, world.connect, clock, told, home, spec
    )
    yield world
    ledger.close()


def stopped(world: World, prepare: Callable[[], None] = lambda: None) -> Facts:
    machine = world.rented()
    prepare()
    assert machine.machine_id is not None
    world.cloud.stop(machine.machine_id)
    return declare_lost(world.context, Facts(), Loss(Trouble.LOST, "the machine has been stopped", stopped=True))
