"""A run that another laptop began, from its store: for `resume RUN --from URL` and `pull RUN --from URL`.

The run is entered here as a run of this installation, with the checkpoints that it needs as what it has. It goes on
under a folder of its own, on a machine and in the store: the laptop that began it may come back and is not overtaken.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.courier import best_told_by, checkpoint_home
from orchestrator.driver_lock import driver_lock
from orchestrator.errors import RunConflict
from orchestrator.reporter import Meter, Reporter
from orchestrator.spec import RunSpec, spec_from_json, spec_to_json
from orchestrator.storage.api import StorageError
from orchestrator.storage.bring_home import bring_home
from orchestrator.storage.open import open_store
from orchestrator.storage.record import read_run, withdraw_photos
from orchestrator.storage.run_store import RUNS, RunStore, StoredFolder, run_address, runs_in
from orchestrator.wiring import Wiring


def find_run(url: str, endpoint_url: str | None, name: str) -> RunStore:
    """`url` names the run (…/runs/NAME) or a store in which one run was named `name`. Puts its uploads together.

    Raises StorageError when there is none, or more than one.
    """
    if f"/{RUNS}/" in url:
        root, folder = run_address(url)
        run = RunStore(open_store(root, endpoint_url), folder)
    else:
        store = open_store(url, endpoint_url)
        runs = [RunStore(store, folder) for folder in runs_in(store)]
        named = [run for run in runs if read_run(run).name == name]
        if len(named) != 1:
            listed = named or runs
            shown = ", ".join(f"`--from {run.url}`" for run in listed[:5]) or "is it the address that the spec names?"
            raise StorageError(f"{url} holds {len(named) or 'no'} runs named `{name}`", shown)
        run = named[0]
    storage = spec_from_json(read_run(run).spec_json).storage
    run.settle(storage.keep_last, storage.keep_every)
    return run


def take_over(wiring: Wiring, name: str, run: RunStore, reporter: Reporter) -> None:
    """Enters the run here as `name`, with its photos, its newest checkpoint, and the best one where that is to be the
    model. Killed on the way, it can be begun again.

    Raises RunConflict when there is a run of that name, or nothing is left to train.
    """
    if wiring.ledger.has_run(name):
        raise RunConflict(
            f"this installation has a run `{name}`", f"`cloudbooth resume {name}` continues it; another name takes both"
        )
    if run.output() is not None:
        raise RunConflict(f"run `{name}` is done", f"`cloudbooth pull {name} --from {run.url}` brings its model")
    record = read_run(run)
    home = wiring.home.run(name)
    with driver_lock(home.driver_lock, name):
        withdraw_photos(run, record, home)
        spec = _with_a_folder_of_this_machine(spec_from_json(record.spec_json))
        # Before the run itself: one that is known without its checkpoint would begin anew.
        _take_checkpoints(wiring, name, run, reporter, with_best=spec.train.export_step == "best")
        wiring.ledger.add_run(name, record.provider, spec_to_json(spec), record.plan_json)


def _take_checkpoints(wiring: Wiring, name: str, run: RunStore, reporter: Reporter, *, with_best: bool) -> None:
    """Raises StorageError for the newest; without the best one the run goes on all the same."""
    home, stored = wiring.home.run(name), {folder.step: folder for folder in run.checkpoints()}

    def take(step: int) -> None:
        target = checkpoint_home(home, step)
        _bring(run, stored[step], target, f"`cloudbooth resume {name} --from {run.url}`", reporter)
        wiring.ledger.record_artifact(name, "checkpoint", step, target, stored[step].manifest.sha256)

    if not stored:
        return
    newest = max(stored)
    take(newest)
    best = best_told_by(checkpoint_home(home, newest)) if with_best else 0
    if best in stored and best != newest:
        try:
            take(best)
        except StorageError as error:
            reporter.note(f"the best checkpoint could not be brought from the store: {error.message}")


def bring_newest(run: RunStore, name: str, folder: Path, reporter: Reporter) -> tuple[StoredFolder, Path] | None:
    """The model, or the newest checkpoint of a run without one, into `folder`; None when the store has neither."""
    newest = run.output() or next(iter(run.checkpoints()[-1:]), None)
    if newest is None:
        return None
    target = folder / (name if newest.kind == "output" else f"{name}-checkpoint-{newest.step:06d}")
    _bring(run, newest, target, f"`cloudbooth pull {name} --from {run.url}`", reporter)
    return newest, target


def _bring(run: RunStore, folder: StoredFolder, target: Path, again: str, reporter: Reporter) -> None:
    bring_home(run, folder, target, again, Meter(reporter, target.name, folder.manifest.total_bytes))
    reporter.arrived("model" if folder.kind == "output" else "checkpoint", str(target))


def _with_a_folder_of_this_machine(spec: RunSpec) -> RunSpec:
    """The other laptop's output folder where that exists here too, else `models` in the current one."""
    if spec.output.folder.exists() or spec.output.folder.parent.exists():
        return spec
    output = spec.output.model_copy(update={"folder": Path.cwd() / "models"})
    return spec.model_copy(update={"output": output})
