"""A base that lies on the laptop: it reaches the machine whole, and only as it was when the run was planned."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.base_model import inspect_base, job_base
from orchestrator.host import Host
from orchestrator.lifecycle import EndReason
from orchestrator.spec import Model, RunSpec
from orchestrator.staging import read_staged_job
from providers.api import Access, Machine, MachineId, MachineProvider, ThisMachine
from remote_trainer import wire
from tests.simulation.computer import Computer
from tests.simulation.job import RUN
from tests.simulation.schedule import Occasion
from tests.simulation.seams import WatchedProvider
from tests.simulation.world import World
from tests.unit.test_base_model import diffusers_folder
from tests.unit.test_shipping import TRAINING, rented
from tests.unit.test_single_file_base import SD1, safetensors


def folder(at: Path) -> Path:
    return diffusers_folder(at / "base")


def file(at: Path) -> Path:
    path = at / "base.safetensors"
    path.write_bytes(safetensors(SD1))
    return path


class OwnBase(World):
    """Its run trains a base that lies on the laptop. Looks what the trainer finds when it begins."""

    make_base: Callable[[Path], Path] = staticmethod(folder)
    found: dict[str, bytes]
    base_path = ""

    def make_spec(self) -> RunSpec:
        if not hasattr(self, "base"):
            self.base, self.found = self.make_base(self.root), {}
        return super().make_spec().model_copy(update={"model": Model(base=str(self.base))})

    def make_job(self) -> None:
        super().make_job()
        home = self.home.run(RUN)
        job = replace(read_staged_job(home), base=job_base(inspect_base(str(self.base))))
        home.job_file.write_bytes(wire.dumps(job))

    def happened(self, computer: Computer, occasion: Occasion) -> None:
        if occasion is Occasion.STAGE:
            job = wire.loads(wire.Job, (computer.supervisors[-1].folder / wire.JOB_FILE).read_bytes())
            assert job.base_path is not None
            self.base_path, self.found = job.base_path, contents(Path(job.base_path))
        super().happened(computer, occasion)


def contents(base: Path) -> dict[str, bytes]:
    """By path below the folder, without what is hidden; of a file by nothing."""
    if base.is_file():
        return {"": base.read_bytes()}
    files = [path.relative_to(base) for path in base.rglob("*") if path.is_file()]
    return {str(path): (base / path).read_bytes() for path in files if not path.parts[0].startswith(".")}


@dataclass
class Describes(WatchedProvider):
    """Its machine is the one that the laptop is."""

    def describe(self, machine: MachineId) -> Machine:
        return replace(super().describe(machine), access=ThisMachine(sys.executable, "work"))


class OnThisMachine(OwnBase):
    def make_provider(self) -> MachineProvider:
        return Describes(self.cloud, self)

    def _connect(self, access: Access) -> Host:
        assert isinstance(access, ThisMachine)
        assert self.standing is not None
        return self.make_host(self.standing)


def made(kind: type[OwnBase], make_base: Callable[[Path], Path], *, standing: bool = False) -> OwnBase:
    schedule = rented(TRAINING)
    one = type("_", (kind,), {"make_base": staticmethod(make_base)})
    world: OwnBase = one(replace(schedule, standing=standing, boot_s=0.0 if standing else schedule.boot_s))
    return world


@pytest.fixture(params=[folder, file])
def world(request: pytest.FixtureRequest) -> Iterator[OwnBase]:
    world = made(OwnBase, request.param)
    yield world
    world.close()


def test_the_trainer_finds_the_base_as_it_lies_on_the_laptop(world: OwnBase) -> None:
    assert world.play().violation is None
    assert world.found == contents(world.base) != {}
    hashed = job_base(inspect_base(str(world.base))).split(":")[1]
    assert f"/bases/{hashed}" in world.base_path, "where the next run finds it, too"


def test_a_base_that_was_changed_since_the_plan_is_not_sent(world: OwnBase) -> None:
    changed = next(path for path in sorted(world.base.parent.rglob("*.safetensors")))
    before = changed.read_bytes()
    changed.write_bytes(before + b"more")
    reason, failed = world.new_driver()
    assert (reason, failed, world.found) == (None, True, {})
    outcome = world.play() if changed.write_bytes(before) else None  # as the hint says: put back
    assert outcome is not None
    assert any(f"{world.base} has changed since the run was planned" in line for line in outcome.trace)
    assert world.found == contents(world.base)
    assert world.run().reason is EndReason.DONE


@pytest.mark.parametrize("make_base", [folder, file])
def test_on_this_machine_it_is_used_where_it_lies(make_base: Callable[[Path], Path]) -> None:
    world = made(OnThisMachine, make_base, standing=True)
    try:
        assert world.play().violation is None
        assert world.base_path == str(world.base)
        assert world.standing is not None
        assert not list(world.standing.disk.glob("*/bases")), "no copy"
    finally:
        world.close()
