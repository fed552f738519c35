"""The store's part in a run's phases: lending uploads, putting them together, taking from it what a machine took along.

Every function does nothing for a run without a store. What fails here while a machine bills is a note and not an
error: training goes on, and what cannot be uploaded comes over SSH as it does without a store.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from orchestrator.courier import best_told_by, checkpoint_home
from orchestrator.fetch import continues, holds
from orchestrator.fetch_lock import fetching_alone
from orchestrator.lifecycle import Facts
from orchestrator.phases.context import RunContext
from orchestrator.plan_json import planned_pipeline
from orchestrator.remote_run import RemoteRun
from orchestrator.reporter import Meter
from orchestrator.spec import RunSpec
from orchestrator.staging import read_staged_job
from orchestrator.storage.api import StorageError
from orchestrator.storage.bring_home import bring_home
from orchestrator.storage.lending import PoolSize, can_lend, is_due, lend, pool_size
from orchestrator.storage.record import deposit_run
from orchestrator.storage.run_store import RunStore, StoredFolder
from orchestrator.workload import GB, workload
from remote_trainer import wire

LEAST_ARTIFACT_BYTES = 64 << 20
"""What a checkpoint or an export is foreseen to need at least: small ones differ from their estimate by more."""
LOOK_EVERY_S = 600.0
"""Between looks whether what was lent has to be renewed."""


def run_store(context: RunContext) -> RunStore | None:
    return None if context.store is None else RunStore(context.store, context.folder_name)


# ---- while there is a machine --------------------------------------------------------------------------------------


def deposit(context: RunContext) -> None:
    """Puts the run's record and photos into the store, so that another laptop could go on. Twice is safe."""
    run = run_store(context)
    if run is None:
        return
    with _noted(context, "the run could not be written to the store"):
        record = context.run
        deposit_run(run, context.home, record.name, record.provider, record.spec_json, record.plan_json)


def lend_uploads(context: RunContext, remote: RemoteRun, left_s: float | None) -> None:
    """Lends the machine uploads when it has none, or those it has live for less than half their time."""
    run = run_store(context)
    if run is None or not can_lend(run.store):
        return
    with _noted(context, "nothing could be lent for uploads"):
        limit = run.store.presign_limit()  # type: ignore[attr-defined]  # that is what `can_lend` looked for
        if is_due(left_s, limit.seconds):
            size = foreseen_size(context.spec, read_staged_job(context.home), planned_pipeline(context.run.plan_json))
            grant = lend(run.store, run.prefix, size, hand_over_keys=context.spec.storage.pod_credentials)
            remote.lend(grant)


def foreseen_size(spec: RunSpec, job: wire.Job, pipeline: str = "") -> PoolSize:
    work = workload(spec.model.base, job.train, job.formats, pipeline=pipeline)
    checkpoint, export = (max(int(gb * GB), LEAST_ARTIFACT_BYTES) for gb in (work.checkpoint_gb, work.export_gb))
    return pool_size(checkpoint, export)


class Storekeeper:
    """While a run is followed: renews what was lent, and puts together what the machine says it has uploaded.

    The putting together is a thread's work, one at a time: the events do not wait for it, unless the context says so.
    """

    def __init__(self, context: RunContext, remote: RemoteRun) -> None:
        self._context, self._remote = context, remote
        self._thread: threading.Thread | None = None
        self._again = False
        self._looked_at_s = context.clock.monotonic()

    def heard(self, event: wire.Event) -> None:
        if isinstance(event, wire.Uploaded) and self._context.store is not None:
            self._again = True

    def tick(self) -> None:
        """To be called every second or so."""
        now_s = self._context.clock.monotonic()
        if now_s - self._looked_at_s > LOOK_EVERY_S:
            self._looked_at_s = now_s
            lend_uploads(self._context, self._remote, self._remote.status().lent_s)
        if self._again and self._context.settles_inline:
            self._again = False
            settle(self._context)
        elif self._again and (self._thread is None or not self._thread.is_alive()):
            self._again = False
            self._thread = threading.Thread(target=settle, args=(self._context,), name="storekeeper", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Returns when nothing of it is at work any more."""
        if self._thread is not None:
            self._thread.join()


def settle(context: RunContext) -> None:
    """Puts together what machines have uploaded, and removes what need not be kept. Twice is safe, at once too."""
    run = run_store(context)
    if run is None:
        return
    with _noted(context, "what was uploaded could not be put together yet"):
        storage = context.spec.storage
        for folder in run.settle(storage.keep_last, storage.keep_every):
            context.reporter.arrived(_name(folder), f"{run.store.url}/{folder.prefix}")


def settle_for_good(context: RunContext) -> None:
    """When the machine's work is over and everything of it is here: the store gets what it lacks, and is tidied.

    A store that cannot lend gets its copy from this laptop. One that can has it from the machine; what the machine
    could not upload is here, and is not sent over the laptop's line while the machine waits.
    """
    run = run_store(context)
    if run is None:
        return
    settle(context)
    with _noted(context, "the store could not be tidied"):
        if not can_lend(run.store):
            _copy_to(run, context)
        run.clear_incoming()


def _copy_to(run: RunStore, context: RunContext) -> None:
    newest = {artifact.kind: artifact for artifact in context.ledger.artifacts(context.run.name)}
    for kind, artifact in newest.items():
        folder = Path(artifact.folder)
        if (folder / wire.MANIFEST_NAME).is_file():
            run.add("output" if kind == "output" else "checkpoint", folder)
            context.reporter.arrived(f"{kind} in the store", run.url)
    run.settle(context.spec.storage.keep_last, context.spec.storage.keep_every)


# ---- when there is none any more -----------------------------------------------------------------------------------


def after_a_loss(context: RunContext, facts: Facts) -> Facts:
    """What a lost machine had uploaded comes home before another is rented: perhaps the run is done.

    Raises StorageError when nobody knows: the store cannot be asked.
    """
    run = run_store(context)
    if run is None:
        return facts
    model_home = pull_from_store(context)
    if model_home:
        with _noted(context, "the store could not be tidied"):
            run.clear_incoming()
    return replace(facts, model_home=model_home)


def bring_newer_checkpoint(context: RunContext, step_there: int) -> None:
    """The store's newest checkpoint, when it is newer than the host's and the laptop's, and the best one where that is
    to be the model. For a machine to go on from.
    """
    run = run_store(context)
    if run is None:
        return
    with _noted(context, "the store could not be asked for a newer checkpoint"):
        run.settle(context.spec.storage.keep_last, context.spec.storage.keep_every)
        _bring_checkpoints(context, run, step_there)


def pull_from_store(context: RunContext) -> bool:
    """Brings the newest checkpoint and the model home, so far as the store has newer ones. Whether the model is here.

    Verified, recorded; twice is safe. Raises StorageError.
    """
    run = run_store(context)
    if run is None:
        return False
    run.settle(context.spec.storage.keep_last, context.spec.storage.keep_every)
    output = run.output()
    if output is None:
        _bring_checkpoints(context, run, 0)
        return False
    _bring(context, run, output, context.output_folder)
    return True


def _bring_checkpoints(context: RunContext, run: RunStore, step_there: int) -> None:
    """The best one last, and not at any price: without it the run goes on from the newest all the same."""
    artifacts = [a for a in context.ledger.artifacts(context.run.name) if a.kind == "checkpoint"]
    here = {a.step: Path(a.folder) for a in artifacts if (Path(a.folder) / wire.MANIFEST_NAME).is_file()}
    stored = {folder.step: folder for folder in run.checkpoints()}
    newest = max([step_there, *here, *stored])
    if newest <= step_there:
        return
    if newest not in here:
        _bring_checkpoint(context, run, stored[newest])
    if context.spec.train.export_step == "best":
        with _noted(context, "the best checkpoint could not be brought from the store"):
            best = best_told_by(here.get(newest) or checkpoint_home(context.home, newest))
            if best in stored and best not in {*here, newest}:
                _bring_checkpoint(context, run, stored[best])


def _bring_checkpoint(context: RunContext, run: RunStore, folder: StoredFolder) -> None:
    target = checkpoint_home(context.home, folder.step)
    if target.exists() and not holds(target, folder.manifest):
        shutil.rmtree(target)  # of an earlier machine, and no record counts on it
    _bring(context, run, folder, target)


def _bring(context: RunContext, run: RunStore, folder: StoredFolder, target: Path) -> None:
    name = context.run.name
    meter = Meter(context.reporter, _name(folder), folder.manifest.total_bytes)
    with fetching_alone(context.home.fetch_lock):
        bring_home(run, folder, target, continues(name), meter)
    context.ledger.record_artifact(name, folder.kind, folder.step, target, folder.manifest.sha256)
    context.reporter.arrived("model" if folder.kind == "output" else "checkpoint", str(target))


def _name(folder: StoredFolder) -> str:
    return "model" if folder.kind == "output" else f"checkpoint {folder.step}"


@contextmanager
def _noted(context: RunContext, what: str) -> Iterator[None]:
    """A StorageError becomes a note: the run goes on without the store."""
    try:
        yield
    except StorageError as error:
        context.reporter.note(f"{what}: {error.message}")
