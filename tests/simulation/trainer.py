"""The simulated trainer: a stage that is an appointment of the clock, and a model that is a hash chain.

It is a pure function of the job: the state after a step is a hash of the state before it, so that the weights of an
undisturbed run are known without running it. What it writes is committed by the real code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from providers.testing.virtual_clock import Appointment
from remote_trainer import commit, wire
from remote_trainer import run_folder as folders
from remote_trainer.errors import TrainingFailed
from tests.simulation.store import UploaderKilled
from tests.simulation.uploads import try_store

if TYPE_CHECKING:
    from tests.simulation.supervisor import Supervisor

TRY_STORE_S = 1.0
PREPARE_S = 4.0
LOAD_S = 2.0
EXPORT_S = 4.0
EVALUATE_S = 0.3
HELD_STEP_S = 3.0
WEIGHTS = "weights.bin"
STATE = "state.json"


@cache
def state_after(step: int, run: str) -> str:
    """The hash chain: what training is in this world."""
    if step == 0:
        return hashlib.sha256(run.encode()).hexdigest()
    return next_state(state_after(step - 1, run), step)


def next_state(state: str, step: int) -> str:
    return hashlib.sha256(f"{state}/{step}".encode()).hexdigest()


def weights(state: str) -> bytes:
    return state.encode() * 20


class Stage:
    """`storage`, `prepare` or `train`, as a child of a supervisor."""

    def __init__(self, parent: Supervisor, name: str, job: wire.Job) -> None:
        self.parent, self.name, self.job = parent, name, job
        self.computer, self.folder = parent.computer, parent.folder
        self.alive = True
        self._stop = False
        self._next: Appointment | None = None

    def begin(self) -> None:
        self._lock = folders.acquire(self.folder / folders.STAGE_LOCK, wait_s=0)
        if self._lock is None:
            self.alive = False
            self.parent.stage_ended(self.name, 1)
        elif self.name == "storage":
            self._emit(wire.PhaseStarted("storage"))
            self._later(TRY_STORE_S, self._try_store)
        elif self.name == "prepare":
            self._emit(wire.PhaseStarted("environment"))
            self._later(PREPARE_S, self._prepared)
        else:
            self._emit(wire.PhaseStarted("load"))
            self._later(LOAD_S, self._load)

    def terminate(self) -> None:
        """SIGTERM: training ends at the next step, anything else at once."""
        self._stop = True
        if self.name != "train":
            self.end(-15)

    def end(self, exit_code: int) -> None:
        if not self.alive:
            return
        self.alive = False
        if self._next is not None:
            self._next.cancel()
        if self._lock is not None:
            self._lock.close()
        if self.parent.alive and self.parent.stage is self:
            self.parent.stage_ended(self.name, exit_code)

    def _try_store(self) -> None:
        try:
            try_store(self.computer, self.folder)
        except TrainingFailed as failure:
            self._fail(failure)
        except UploaderKilled:
            self.end(-9)
        else:
            self.end(0)

    def _prepared(self) -> None:
        if self.computer.has_gpu:
            self.end(0)
        else:
            self._fail(TrainingFailed("no-gpu", "PyTorch finds no usable GPU on the host"))

    def _load(self) -> None:
        for dataset in self.job.datasets:
            for image in dataset.images:
                path = self.folder / dataset.folder / image.file
                if not path.exists() or commit.file_entry(path, self.folder).sha256 != image.sha256:
                    self._fail(TrainingFailed("bad-image", f"{image.file} is not the picture that was sent"))
                    return
        self.step, self.state = self._newest_checkpoint()
        self.computer.observer.trainer_started(self.computer, self.step)
        self._emit(wire.PhaseStarted("train"))
        self._later(self.computer.step_s, self._make_step)

    def _newest_checkpoint(self) -> tuple[int, str]:
        for folder in sorted((self.folder / wire.CHECKPOINTS_FOLDER).glob("checkpoint-*"), reverse=True):
            if commit.read_committed(folder) is not None:
                content = json.loads((folder / STATE).read_bytes())
                return int(content["step"]), str(content["state"])
            commit.remove_committed(folder)
        return 0, state_after(0, self.job.run)

    def _make_step(self) -> None:
        if self.computer.hangs:
            return  # until somebody kills it
        of = self.job.train.steps
        if not self._stop and self.computer.observer.holds_training(of - self.step):
            self._later(HELD_STEP_S, self._make_step)
            return
        if self.step < of and not self._stop:
            self.step += 1
            self.state = next_state(self.state, self.step)
            self._emit(wire.StepDone(self.step, of, 1.0 / self.step, 1e-4, 2.0))
            if self.step == of // 2:
                self._show_picture()
        every = self.job.train.checkpoint_every or of
        if (self.step % every == 0 or self.step == of) and not self._is_committed():
            self._emit(wire.PhaseStarted("evaluate"))
            self._later(EVALUATE_S, self._checkpoint)
        elif self._stop and not self._is_committed():
            self._checkpoint()
        else:
            self._go_on()

    def _checkpoint(self) -> None:
        """Outside the phase "train": on a slow disk it may last."""
        self._emit(wire.PhaseStarted("checkpoint"))
        self._later(self.computer.training.commit_s, self._commit_checkpoint)

    def _go_on(self) -> None:
        if self.step == self.job.train.steps:
            self._emit(wire.PhaseStarted("export"))
            self._later(EXPORT_S, self._export)
        elif self._stop:
            self._emit(wire.Stopped(self.step))
            self.end(0)
        else:
            self._later(self.computer.step_s, self._make_step)

    def _show_picture(self) -> None:
        path = self.folder / wire.VALIDATION_FOLDER / f"{self.step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.state.encode())
        self._emit(wire.SampleMade(self.step, "a photo", commit.file_entry(path, self.folder)))

    def _is_committed(self) -> bool:
        return self.step == 0 or (self.folder / wire.checkpoint_folder(self.step)).exists()

    def _commit_checkpoint(self) -> None:
        folder = self.folder / wire.checkpoint_folder(self.step)
        try:
            manifest = self._commit(folder, {STATE: json.dumps({"step": self.step, "state": self.state}).encode()})
        except TrainingFailed as failure:
            self._fail(failure)
            return
        shown = f"{wire.CHECKPOINTS_FOLDER}/{folder.name}"
        self._emit(wire.CheckpointCommitted(self.step, shown, manifest.sha256, manifest.total_bytes))
        for old in sorted(folder.parent.glob("checkpoint-*"))[: -self.job.train.keep_checkpoints]:
            commit.remove_committed(old)
        if self.step < self.job.train.steps and not self._stop:
            self._emit(wire.PhaseStarted("train"))
        self._go_on()

    def _export(self) -> None:
        try:
            manifest = self._commit(self.folder / wire.OUTPUT_FOLDER, {})
        except TrainingFailed as failure:
            self._fail(failure)
            return
        self._emit(wire.Done(self.step, manifest.sha256))
        self.end(0)

    def _commit(self, folder: Path, more: dict[str, bytes]) -> wire.Manifest:
        try:
            with commit.preparing(folder) as prepared:
                for name, content in {WEIGHTS: weights(self.state), **more}.items():
                    (prepared / name).write_bytes(content)
                    self.computer.write_or_fail()
                return commit.commit_folder(prepared, folder, self.step)
        except OSError as error:
            raise TrainingFailed("disk-full", str(error)) from error

    def _fail(self, failure: TrainingFailed) -> None:
        self._emit(wire.Failed(failure.code, failure.message, failure.hint))
        self.end(1)

    def _emit(self, event: wire.Event) -> None:
        if self.parent.alive:
            self.parent.hear(event)

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        def act() -> None:
            if self.alive:
                action()

        self._next = self.computer.clock.after(delay_s, act)
