"""What `pull` and the end of a run bring home, and how they wait for another process that does."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from orchestrator.driver import drive_until
from orchestrator.errors import RunConflict
from orchestrator.lifecycle import EndReason, Facts, State, Wish
from orchestrator.phases.context import RunContext
from orchestrator.phases.retrieve import pull_what_is_there, retrieve, worth_bringing
from orchestrator.progress import Progress
from providers.errors import CloudboothError
from remote_trainer import wire
from remote_trainer.commit import commit_folder, preparing, read_committed
from tests.fakes.lock_holder import holding
from tests.fakes.told import Told
from tests.simulation.computer import Computer
from tests.simulation.job import RUN
from tests.simulation.world import World
from tests.unit.test_shipping import TRAINING, rented


class Undriven(World):
    """Nobody watches who calls: the calls are the test's."""

    def acted(self, computer: Computer, run_folder: str, verb: str) -> None: ...


@dataclass
class Scene:
    """A run that nobody drives further; its machine goes on by itself."""

    world: World
    told: Told = field(default_factory=Told)

    def at(self, state: State) -> RunContext:
        """As of that state, with no file home."""
        context = self.world._context(self.world.ledger.become_driver(RUN))
        assert drive_until(context, state)
        return replace(context, run=self.world.run(), reporter=self.told)

    @property
    def computer(self) -> Computer:
        [computer] = self.world.computers.values()
        return computer

    @property
    def run_folder(self) -> Path:
        return self.computer.supervisors[-1].folder

    def kinds(self) -> list[str]:
        return [artifact.kind for artifact in self.world.ledger.artifacts(RUN)]


@pytest.fixture
def scene() -> Iterator[Scene]:
    world = Undriven(replace(rented(TRAINING), courier=False, faults=()))
    yield Scene(world)
    world.close()


# ---- pull ------------------------------------------------------------------------------------------------------------


def test_while_training_goes_on_it_brings_the_newest_checkpoint_and_no_model(scene: Scene) -> None:
    context = scene.at(State.TRAINING)
    while not (there := list(scene.run_folder.glob("checkpoints/checkpoint-*"))):
        scene.world.clock.sleep(1.0)
    pull_what_is_there(context)
    [artifact] = scene.world.ledger.artifacts(RUN)
    assert (artifact.kind, artifact.step) == ("checkpoint", TRAINING.checkpoint_every)
    assert read_committed(Path(artifact.folder)) == read_committed(there[-1])
    assert not context.output_folder.exists()
    assert scene.computer.living(), "nothing was stopped"


def test_before_the_first_checkpoint_it_brings_nothing_and_breaks_nothing(scene: Scene) -> None:
    context = scene.at(State.TRAINING)
    assert not list(scene.run_folder.glob("checkpoints/checkpoint-*"))
    pull_what_is_there(context)
    assert scene.world.ledger.artifacts(RUN) == []
    assert scene.computer.living()


def test_of_a_run_that_is_done_it_brings_the_model_and_leaves_the_run_where_it_is(scene: Scene) -> None:
    context = scene.at(State.RETRIEVING)
    pull_what_is_there(context)
    assert "output" in scene.kinds()
    model = read_committed(context.output_folder)
    assert model is not None
    assert model == read_committed(scene.run_folder / wire.OUTPUT_FOLDER)
    assert scene.world.run().state is State.RETRIEVING
    assert scene.world.cloud.living()


def test_a_model_without_a_valid_manifest_is_not_taken_for_one(scene: Scene) -> None:
    context = scene.at(State.RETRIEVING)
    (scene.run_folder / wire.OUTPUT_FOLDER / wire.MANIFEST_NAME).write_text("torn")
    with pytest.raises(CloudboothError, match="its output has no valid manifest") as caught:
        pull_what_is_there(context)
    assert f"cloudbooth logs {RUN} --trainer" in caught.value.hint
    assert "output" not in scene.kinds()
    assert not context.output_folder.exists()


def test_the_best_checkpoint_is_brought_before_the_newest_and_once() -> None:
    folders = tuple(wire.CommittedFolder(step, f"checkpoints/{step}", "") for step in (100, 300, 400))
    status = wire.HostStatus("i", None, False, 1, 0, True, None, folders, None, 0)

    def brought(losses: dict[int, float]) -> list[int]:
        progress = Progress(evaluations=tuple(wire.Evaluated(step, loss) for step, loss in losses.items()))
        return [folder.step for folder in worth_bringing(status, progress)]

    assert brought({0: 0.1, 100: 0.3, 300: 0.4, 400: 0.5}) == [100, 400]
    assert brought({100: 0.3, 400: 0.2}) == [400]
    assert brought({200: 0.1, 400: 0.2}) == [400], "the best is no longer there"
    assert brought({}) == [400]


# ---- the end of a run ------------------------------------------------------------------------------------------------


def test_the_trainers_log_comes_home_with_the_model(scene: Scene) -> None:
    context = scene.at(State.RETRIEVING)
    said = b"step 1\n" * 200
    (scene.run_folder / wire.LOG_FILE).write_bytes(said)
    assert retrieve(context, Facts()).retrieved
    assert context.home.trainer_log.read_bytes() == said
    assert "output" in scene.kinds()


def test_it_waits_for_a_process_that_fetches_and_says_so_once(scene: Scene) -> None:
    context = scene.at(State.RETRIEVING)
    with holding(context.home.fetch_lock) as other:
        letting_go = threading.Timer(0.15, other.kill)
        letting_go.start()
        pull_what_is_there(context)
        letting_go.join()
    waiting = "another process fetches files of this run: waiting for it"
    assert scene.told.notes.count(waiting) == 1
    assert "output" in scene.kinds()


class _Told(Told):
    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__()
        self._then = then

    def note(self, text: str) -> None:
        super().note(text)
        self._then()


def test_down_ends_the_wait_for_another_process(scene: Scene) -> None:
    context = scene.at(State.RETRIEVING)
    ends = _Told(lambda: scene.world.ledger.set_wish(RUN, Wish.DOWN))
    with holding(context.home.fetch_lock) as other:
        assert retrieve(replace(context, reporter=ends), Facts()) == Facts()
        assert other.poll() is None, "it still holds the lock"
    assert "output" not in scene.kinds()
    assert scene.world.run().reason is EndReason.DONE, "which the release makes of it is not retrieval's to say"


# ---- what came home goes to the next machine -------------------------------------------------------------------------


def test_a_checkpoint_that_was_deleted_by_hand_is_passed_over_for_the_one_before(scene: Scene) -> None:
    context = scene.at(State.TRAINING)
    for number in (1, 2):
        while len(list(scene.run_folder.glob("checkpoints/checkpoint-*"))) < number:
            scene.world.clock.sleep(0.5)
        pull_what_is_there(context)
    older, newer = scene.world.ledger.artifacts(RUN)
    assert newer.step > older.step
    (Path(newer.folder) / wire.MANIFEST_NAME).unlink()
    [machine] = scene.world.cloud.living()
    scene.world.cloud.vanish(machine.id)
    assert drive_until(context, State.RECOVERING)
    assert drive_until(context, State.TRAINING)
    second = list(scene.world.computers.values())[-1]
    shipped = [path.name for path in second.disk.glob("*/runs/*/checkpoints/*")]
    assert shipped == [Path(older.folder).name]


@pytest.mark.parametrize("export_step", ["best", "last"])
def test_the_best_checkpoint_goes_along_where_the_model_is_to_be_that_of_it(scene: Scene, export_step: str) -> None:
    context = scene.at(State.TRAINING)
    train = replace(context.spec.train, export_step=export_step)  # type: ignore[arg-type]
    context = replace(context, spec=context.spec.model_copy(update={"train": train}))
    for number in (1, 2):
        while len(list(scene.run_folder.glob("checkpoints/checkpoint-*"))) < number:
            scene.world.clock.sleep(0.5)
        pull_what_is_there(context)
    older, newer = (Path(artifact.folder) for artifact in scene.world.ledger.artifacts(RUN))
    evaluated(newer, {3: 0.1, 6: 0.2})
    [machine] = scene.world.cloud.living()
    scene.world.cloud.vanish(machine.id)
    assert drive_until(context, State.RECOVERING)
    assert drive_until(context, State.TRAINING)
    second = list(scene.world.computers.values())[-1]
    shipped = {path.name: read_committed(path) for path in second.disk.glob("*/runs/*/checkpoints/*")}
    expected = [older, newer] if export_step == "best" else [newer]
    assert shipped == {folder.name: read_committed(folder) for folder in expected}


def evaluated(checkpoint: Path, losses: dict[int, float]) -> None:
    """Commits it anew, with what it remembers of evaluations."""
    step, state = int(checkpoint.name[-6:]), json.loads((checkpoint / wire.STATE_FILE).read_bytes())
    state["evaluations"] = [{"step": step, "mean_loss": loss} for step, loss in losses.items()]
    shutil.rmtree(checkpoint)
    with preparing(checkpoint) as prepared:
        (prepared / wire.STATE_FILE).write_text(json.dumps(state))
        commit_folder(prepared, checkpoint, step)


def test_without_a_machine_there_is_nothing_to_pull_from(scene: Scene) -> None:
    with pytest.raises(RunConflict, match="has no machine"):
        pull_what_is_there(scene.world._context(scene.world.ledger.become_driver(RUN)))
