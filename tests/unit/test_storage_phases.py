"""A rented machine that is gone when the laptop comes back: what the store holds decides how the run goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.courier import checkpoint_home
from orchestrator.driver import drive
from orchestrator.home import Home
from orchestrator.host import Host, HostUnreachable
from orchestrator.ledger import Ledger
from orchestrator.lifecycle import EndReason, Facts, Keeps, State, Trouble
from orchestrator.phases import provision
from orchestrator.phases.context import RunContext
from orchestrator.phases.storage import (
    bring_newer_checkpoint,
    foreseen_size,
    pull_from_store,
    settle,
    settle_for_good,
)
from orchestrator.spec import RunSpec
from orchestrator.storage.api import ObjectStore, StorageError
from orchestrator.storage.folder import FolderStore
from orchestrator.storage.run_store import RunStore
from providers.api import Access, MachineId, Market, Offer
from providers.testing.simulated_cloud import SimulatedCloud
from providers.testing.virtual_clock import VirtualClock
from remote_trainer import wire
from remote_trainer.commit import commit_folder, preparing, read_committed
from tests.fakes.told import Told

SPEC = {
    "name": "dog",
    "subject": {"instance_prompt": "a photo of sks dog"},
    "data": {"instance": "/photos"},
    "compute": {"provider": "simulated"},
    "limits": {"max_cost_usd": 0.5},
}


def unreachable(_access: Access) -> Host:
    raise HostUnreachable("nobody answers")


@dataclass
class Laptop:
    context: RunContext
    run: RunStore
    folder: Path

    def stored(self, step: int, *, output: bool = False, losses: Mapping[int, float] | None = None) -> wire.Manifest:
        """As if the machine had uploaded it."""
        folder = self.folder / f"made-{step}-{output}"
        with preparing(folder) as prepared:
            (prepared / "weights").write_bytes(f"{step}".encode())
            told = [{"step": step, "mean_loss": loss} for step, loss in (losses or {}).items()]
            (prepared / wire.STATE_FILE).write_text(json.dumps({"evaluations": told}))
            manifest = commit_folder(prepared, folder, step)
        self.run.add("output" if output else "checkpoint", folder)
        return manifest


@pytest.fixture
def laptop(tmp_path: Path) -> Laptop:
    """Its run was training on a machine that the provider no longer knows."""
    clock = VirtualClock()
    home = Home(tmp_path / "home")
    ledger = Ledger(home.ledger_file, clock)
    spec = RunSpec.model_validate_json(json.dumps({**SPEC, "output": {"folder": str(tmp_path / "models")}}))
    ledger.add_run("dog", "simulated", spec.model_dump_json(), "{}")
    epoch = ledger.become_driver("dog")
    ledger.move("dog", epoch, State.PLANNED, State.PROVISIONING, "")
    offer = Offer("simulated", "o", "GPU", 1, 24.0, Market.ON_DEMAND, 10.0)
    ledger.record_intent(ledger.run("dog"), epoch, "cb-x-dog", offer)
    ledger.record_created("dog", epoch, "cb-x-dog", MachineId("gone"))
    ledger.move("dog", epoch, State.PROVISIONING, State.SHIPPING, "")
    ledger.move("dog", epoch, State.SHIPPING, State.TRAINING, "")
    store = FolderStore(tmp_path / "store")
    context = RunContext(
        run=ledger.run("dog"),
        epoch=epoch,
        ledger=ledger,
        provider=SimulatedCloud(clock),
        connect=unreachable,
        clock=clock,
        reporter=Told(),
        home=home.run("dog"),
        spec=spec,
        store=store,
    )
    context.home.root.mkdir(parents=True)
    clock.sleep(3600)  # the ceiling is used up: nothing is rented again
    return Laptop(context, RunStore(store, context.folder_name), tmp_path)


def test_a_run_that_finished_meanwhile_is_done_with_the_model_of_the_store(laptop: Laptop) -> None:
    laptop.stored(100)
    model = laptop.stored(120, output=True)
    assert drive(laptop.context) is EndReason.DONE
    assert read_committed(laptop.context.output_folder) == model
    assert not laptop.context.ledger.open_machines()


def test_a_run_that_had_not_finished_keeps_the_newest_checkpoint_of_the_store(laptop: Laptop) -> None:
    laptop.stored(100)
    newest = laptop.stored(200)
    assert drive(laptop.context) is EndReason.MACHINE_LOST
    [checkpoint] = laptop.context.ledger.artifacts("dog")
    assert (checkpoint.step, checkpoint.manifest_sha256) == (200, newest.sha256)
    assert read_committed(Path(checkpoint.folder)) == newest


def test_a_store_that_cannot_be_asked_leaves_the_decision_open(laptop: Laptop) -> None:
    laptop.stored(120, output=True)

    class Away:
        def __getattr__(self, _name: str) -> object:
            raise StorageError("the store does not answer")

    away: ObjectStore = Away()  # type: ignore[assignment]  # nothing of it answers
    with pytest.raises(StorageError):
        drive(replace(laptop.context, store=away))
    assert laptop.context.ledger.run("dog").state is State.TRAINING
    assert drive(laptop.context) is EndReason.DONE


def test_the_newest_checkpoint_is_taken_wherever_it_is(laptop: Laptop) -> None:
    laptop.stored(200)
    bring_newer_checkpoint(laptop.context, step_there=300)
    assert laptop.context.ledger.artifacts("dog") == []
    bring_newer_checkpoint(laptop.context, step_there=100)
    assert [a.step for a in laptop.context.ledger.artifacts("dog")] == [200]


def with_the_best(context: RunContext) -> RunContext:
    train = replace(context.spec.train, export_step="best")
    return replace(context, spec=context.spec.model_copy(update={"train": train}))


def test_the_best_checkpoint_is_taken_too_where_the_model_is_to_be_that_of_it(laptop: Laptop) -> None:
    for step in (100, 200, 300):
        laptop.stored(step, losses={100: 0.1, 200: 0.2, 300: 0.3})
    context = with_the_best(laptop.context)
    bring_newer_checkpoint(context, step_there=300)
    assert context.ledger.artifacts("dog") == [], "the host has what it needs"
    for _ in range(2):
        bring_newer_checkpoint(context, step_there=0)
        assert [a.step for a in context.ledger.artifacts("dog")] == [100, 300]


def test_the_best_checkpoint_is_taken_although_the_newest_is_here_already(laptop: Laptop) -> None:
    newest = laptop.stored(300, losses={100: 0.1, 300: 0.3})
    laptop.stored(100)
    here = checkpoint_home(laptop.context.home, 300)
    shutil.copytree(laptop.folder / "made-300-False", here)
    laptop.context.ledger.record_artifact("dog", "checkpoint", 300, here, newest.sha256)
    bring_newer_checkpoint(laptop.context, step_there=0)
    assert [a.step for a in laptop.context.ledger.artifacts("dog")] == [300], "nobody asked for the best"
    bring_newer_checkpoint(with_the_best(laptop.context), step_there=0)
    assert [a.step for a in laptop.context.ledger.artifacts("dog")] == [100, 300]


def test_a_best_checkpoint_that_cannot_be_read_does_not_keep_the_newest_away(laptop: Laptop) -> None:
    for step in (100, 200, 300):
        laptop.stored(step, losses={100: 0.1, 200: 0.2, 300: 0.3})
    [best] = [folder for folder in laptop.run.checkpoints() if folder.step == 100]
    laptop.run.store.put(f"{best.prefix}/weights", b"???")
    told = Told()
    context = replace(with_the_best(laptop.context), reporter=told)
    assert not pull_from_store(context)
    assert [a.step for a in context.ledger.artifacts("dog")] == [300]
    [note] = told.notes
    assert note.startswith("the best checkpoint could not be brought")


def test_pulling_twice_brings_nothing_twice(laptop: Laptop) -> None:
    laptop.stored(120, output=True)
    assert pull_from_store(laptop.context)
    assert pull_from_store(laptop.context)
    assert len(laptop.context.ledger.artifacts("dog")) == 1


def test_a_folder_gets_what_came_home_and_nothing_unfinished_stays(laptop: Laptop) -> None:
    with preparing(laptop.context.output_folder) as prepared:
        (prepared / "weights").write_bytes(b"weights")
        model = commit_folder(prepared, laptop.context.output_folder, 120)
    laptop.context.ledger.record_artifact("dog", "output", 120, laptop.context.output_folder, model.sha256)
    laptop.run.store.put(f"{laptop.run.prefix}/incoming/grant/chunk-00000", b"left over")
    settle_for_good(laptop.context)
    output = laptop.run.output()
    assert output is not None
    assert output.manifest == model
    assert {found.key.split("/")[2] for found in laptop.run.store.objects(laptop.run.prefix)} == {"output"}


def test_what_the_laptop_has_lost_of_a_run_is_not_missed_by_the_store(laptop: Laptop) -> None:
    with preparing(laptop.context.output_folder) as prepared:
        (prepared / "weights").write_bytes(b"weights")
        model = commit_folder(prepared, laptop.context.output_folder, 120)
    record = laptop.context.ledger.record_artifact
    record("dog", "checkpoint", 100, laptop.folder / "deleted by hand", "sha")
    record("dog", "output", 120, laptop.context.output_folder, model.sha256)
    settle_for_good(laptop.context)
    assert laptop.run.checkpoints() == []
    output = laptop.run.output()
    assert output is not None
    assert output.manifest == model


def test_a_folder_that_no_record_knows_does_not_stand_for_a_checkpoint_of_its_step(laptop: Laptop) -> None:
    newest = laptop.stored(200)
    stale = checkpoint_home(laptop.context.home, 200)
    stale.mkdir(parents=True)
    (stale / "weights").write_bytes(b"of an earlier machine")
    bring_newer_checkpoint(laptop.context, step_there=0)
    assert read_committed(stale) == newest
    assert (stale / "weights").read_bytes() == b"200"


def test_a_model_that_is_in_the_store_by_now_needs_no_other_machine(laptop: Laptop) -> None:
    """The store could not be asked when the machine was lost, and can when another is to be rented."""
    context = laptop.context
    context.ledger.record_trouble("dog", context.epoch, "cb-x-dog", Trouble.LOST, "", Keeps.NOTHING, stopped=False)
    context.ledger.record_absent("dog", context.epoch, "cb-x-dog")
    context.home.sent_job.parent.mkdir(parents=True)
    context.home.sent_job.write_bytes(b"{}")
    model = laptop.stored(120, output=True)
    assert provision.create(context, Facts()) == Facts(model_home=True), "what is left to spend is not even counted"
    assert read_committed(context.output_folder) == model


def test_a_run_without_a_store_has_nothing_to_put_together_or_to_bring(laptop: Laptop) -> None:
    laptop.stored(120, output=True)
    context = replace(laptop.context, store=None)
    settle(context)
    assert not pull_from_store(context)
    assert not context.output_folder.exists()


def test_the_pool_is_foreseen_from_the_method_and_never_tiny(laptop: Laptop) -> None:
    def size(base: str, method: wire.Method) -> int:
        model = laptop.context.spec.model.model_copy(update={"base": base})
        spec = laptop.context.spec.model_copy(update={"model": model})
        job = wire.Job("dog", "dog", base, wire.TrainSpec(method=method), (), ("diffusers",))
        pool = foreseen_size(spec, job)
        return pool.chunks * pool.chunk_bytes

    assert size("builtin:tiny", "lora") > 256 << 20
    assert size("stable-diffusion-v1-5/stable-diffusion-v1-5", "full") > 4 * 10 * 10**9
