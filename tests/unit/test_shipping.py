"""Files on their way to a machine: what ends the journey, and what is looked at again before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.lifecycle import State, Trouble
from orchestrator.staging import read_staged_job
from providers.testing.virtual_clock import START
from remote_trainer import wire
from remote_trainer.hub_token import token_file
from tests.fakes.hub import FakeHub, running_hub
from tests.simulation.computer import Computer
from tests.simulation.job import RUN
from tests.simulation.kinds import WorldFault
from tests.simulation.schedule import Abilities, AtMachine, Occasion, Schedule, Training, draw
from tests.simulation.world import World

SLOW_LINE_S = 5.0
"""For half a kilobyte: the photos take twenty-five minutes."""


class ManyPhotos(World):
    photos = 60


def rented(training: Training, max_cost_usd: float = 50.0, price_factor: float = 1.0) -> Schedule:
    """An undisturbed run on a machine that the provider cannot stop, so that no money is kept back for its disk."""
    return replace(
        draw(0), standing=False, training=training, boot_s=5.0, storage=False, keep_minutes=0.0, chained=False,
        slow=1.0,
        abilities=Abilities(stops=False, machines_stop_themselves=False), max_cost_usd=max_cost_usd,
        price_factor=price_factor,
    )  # fmt: skip


TRAINING = Training(steps=6, step_s=1.0, checkpoint_every=3, deadline_s=None)


def test_a_machine_whose_money_goes_into_the_way_there_is_left_before_it_is_gone() -> None:
    schedule = rented(replace(TRAINING, chunk_s=SLOW_LINE_S), max_cost_usd=0.6, price_factor=12.0)
    world = ManyPhotos(schedule)
    try:
        outcome = world.play()
        assert outcome.violation is None, "the ceiling among other rules"
        first = world.ledger.machines(RUN)[0]
        assert first.trouble is Trouble.TOO_SLOW
        assert "was spent while its files were under way" in first.trouble_why
    finally:
        world.close()


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        (WorldFault.USER_STOPS, "`stop` was asked for before training began"),
        (WorldFault.USER_ENDS, "`down` was asked for"),
    ],
)
def test_a_wish_to_end_is_heeded_while_files_are_under_way(wish: WorldFault, why: str) -> None:
    asked = AtMachine(wish, Occasion.BOOT, delay_s=120.0, length_s=0.0)
    world = ManyPhotos(replace(rented(replace(TRAINING, chunk_s=SLOW_LINE_S)), faults=(asked,)))
    try:
        assert world.play().violation is None
        end = next(move for move in world.ledger.moves(RUN) if move.to_state is State.RELEASING)
        assert (end.from_state, end.why) == (State.SHIPPING, why)
        assert end.at - START < 400.0, "the journey would have taken twenty-five minutes"
    finally:
        world.close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


class ClosedBase(World):
    """The base opens only with a token. Looks what is lent when a stage begins."""

    lent: bytes | None = None

    def make_job(self) -> None:
        super().make_job()
        home = self.home.run(RUN)
        home.job_file.write_bytes(wire.dumps(replace(read_staged_job(home), closed_base=True)))

    def happened(self, computer: Computer, occasion: Occasion) -> None:
        if occasion is Occasion.STAGE:
            path = token_file(computer.supervisors[-1].folder)
            self.lent = path.read_bytes() if path is not None else None
        super().happened(computer, occasion)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(("token", "lent"), [("good", b"good"), ("writing", None), ("stranger", None), ("", None)])
def test_a_token_is_looked_at_again_before_it_travels(
    monkeypatch: pytest.MonkeyPatch, token: str, lent: bytes | None
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    world = ClosedBase(rented(TRAINING))
    try:
        outcome = world.play()
        assert (outcome.violation, world.lent) == (None, lent)
        said = "the machine can download the base only with a token of its own"
        assert any(said in line for line in outcome.trace) is (lent is None)
    finally:
        world.close()


class WithAModel(World):
    """Pictures are wanted of a model that lies on the laptop. Looks at what the machine has when a stage begins."""

    arrived: tuple[Path, bytes] | None = None

    def make_job(self) -> None:
        super().make_job()
        home = self.home.run(RUN)
        model = home.root.with_name("dog.safetensors")
        model.write_bytes(b"trained before")
        wanted = wire.PictureJob("dog", "builtin:tiny", str(model), "lora", "a photo of sks dog")
        home.job_file.write_bytes(wire.dumps(replace(read_staged_job(home), pictures=wanted)))

    def happened(self, computer: Computer, occasion: Occasion) -> None:
        if occasion is Occasion.STAGE:
            run_folder = computer.supervisors[-1].folder
            job = wire.loads(wire.Job, (run_folder / wire.JOB_FILE).read_bytes())
            assert job.pictures is not None
            path = Path(job.pictures.model)
            self.arrived = path.relative_to(run_folder), path.read_bytes()
        super().happened(computer, occasion)


def test_a_model_travels_into_the_runs_folder_where_its_job_names_it() -> None:
    world = WithAModel(rented(TRAINING))
    try:
        assert world.play().violation is None
        assert world.arrived == (Path("model/dog.safetensors"), b"trained before")
    finally:
        world.close()


def test_a_model_that_was_removed_meanwhile_is_named_and_how_to_end_the_run() -> None:
    class Removed(WithAModel):
        def make_job(self) -> None:
            super().make_job()
            self.home.run(RUN).root.with_name("dog.safetensors").unlink()

    world = Removed(rented(TRAINING))
    try:
        told = "".join(world.play().trace)
        assert "the model of run `dog` is not in" in told
    finally:
        world.close()
