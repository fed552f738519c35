"""The inside of a simulated machine: a disk, a supervisor and its stages, advanced by the virtual clock.

The disk is a real folder, and all of `remote_trainer` that only reads and writes files works on it as it is: the
agent's answers, the locks, the event log, the commit of a checkpoint. What the real supervisor does with processes
and pipes happens here as appointments of the clock; what it decides, its own pure functions decide.

The trainer is a pure function of the job: the state after a step is a hash of the state before it, so that the
weights of an undisturbed run are known without running it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol

from providers.testing.virtual_clock import Appointment, SkewedClock, VirtualClock
from remote_trainer import commit, oversight, supervisor, wire
from remote_trainer import run_folder as folders
from remote_trainer.deadline import ELAPSED_FILE, Elapsed
from remote_trainer.errors import TrainingFailed
from tests.simulation.schedule import Training

PREPARE_S = 8.0
LOAD_S = 4.0
EXPORT_S = 6.0
WATCH_S = 2.0
"""How often the supervisor looks at its stage; the real one looks every half second."""
LEASH_S = 0.5
"""How long a stage outlives its supervisor."""
WEIGHTS = "weights.bin"
STATE = "state.json"


def state_after(step: int, run: str) -> str:
    """The hash chain: what training is in this world."""
    state = hashlib.sha256(run.encode()).hexdigest()
    for number in range(1, step + 1):
        state = next_state(state, number)
    return state


def next_state(state: str, step: int) -> str:
    return hashlib.sha256(f"{state}/{step}".encode()).hexdigest()


def weights(state: str) -> bytes:
    return state.encode() * 20


class Observer(Protocol):
    """What a world wants to know of its computers."""

    def trainer_started(self, computer: Computer, step: int) -> None: ...

    def said(self, computer: Computer, event: wire.Event) -> None: ...


class Computer:
    """A machine with a disk. It lives until `die`; its processes may come and go."""

    def __init__(
        self, name: str, disk: Path, clock: VirtualClock, training: Training, skew_s: float, observer: Observer
    ) -> None:
        self.name, self.disk, self.clock, self.training, self.observer = name, disk, clock, training, observer
        self.date = SkewedClock(clock, skew_s)
        self.alive = True
        self.unreachable_until_s = 0.0
        self.disk_full_until_s = 0.0
        self.hangs = False
        """The trainer stops making steps."""
        self.boot = 1
        self.next_pid = 100
        self.connections = 1
        """Goes up when every connection to it breaks."""
        self.supervisors: list[Supervisor] = []
        self.logs: dict[str, bytes] = {}
        """What was in the event log of every incarnation when its folder was removed."""
        self.epochs: dict[str, int] = {}
        """Run folder → the highest driver epoch that ever called, whatever the disk remembers."""
        disk.mkdir(parents=True)

    @property
    def reachable(self) -> bool:
        return self.alive and self.clock.monotonic() >= self.unreachable_until_s

    @property
    def disk_is_full(self) -> bool:
        return self.clock.monotonic() < self.disk_full_until_s

    def living(self) -> list[Supervisor]:
        return [process for process in self.supervisors if process.alive]

    def stages(self) -> list[Stage]:
        return [process.stage for process in self.supervisors if process.stage is not None and process.stage.alive]

    def supervisor_of(self, run_folder: Path) -> Supervisor | None:
        return next((process for process in self.living() if process.folder == run_folder), None)

    def start(self, run_folder: Path, epoch: int) -> None:
        """As `supervise`: nothing happens when another holds the lock."""
        self.next_pid += 1
        process = Supervisor(self, run_folder, epoch, self.next_pid)
        self.supervisors.append(process)
        process.begin()

    def kill_all(self) -> None:
        for process in self.supervisors:
            process.kill(leash_s=0.0)

    def restart(self, pause_s: float) -> None:
        """Every process dies, the disk stays."""
        self.kill_all()
        self.boot += 1
        self.unreachable_until_s = self.clock.monotonic() + pause_s
        self.connections += 1

    def die(self) -> None:
        self.kill_all()
        self.alive = False
        self.connections += 1

    def write_or_fail(self) -> None:
        """Raises the error of a full disk."""
        if self.disk_is_full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def name_incarnation(self, run_folder: Path) -> None:
        """A new folder's log gets its name from us: the product's would be random."""
        if run_folder.exists() and not (run_folder / folders.INCARNATION_FILE).exists():
            self.next_pid += 1
            (run_folder / folders.INCARNATION_FILE).write_text(f"{self.name}-{self.next_pid}")

    def keep_log(self, run_folder: Path) -> None:
        """Before the folder is removed: mirrors are compared with it at the end."""
        name, log = run_folder / folders.INCARNATION_FILE, run_folder / wire.EVENTS_FILE
        if name.exists() and log.exists():
            self.logs[name.read_text()] = log.read_bytes()

    def every_log(self) -> dict[str, bytes]:
        for name in self.disk.glob(f"*/runs/*/{folders.INCARNATION_FILE}"):
            self.keep_log(name.parent)
        return self.logs


class _Log(folders.EventLog):
    """The real log, with the date of a simulated machine."""

    def __init__(self, run_folder: Path, now: Callable[[], float]) -> None:
        super().__init__(run_folder)
        self._now = now

    def append(self, event: wire.Event) -> None:
        self._handle.write(wire.encode_event(event, self._next_seq, self._now()))
        self._handle.flush()
        self._next_seq += 1

    def tear(self) -> None:
        """A process killed in the middle of a write."""
        self._handle.write(b'{"v":1,"seq":')
        self._handle.flush()


class Supervisor:
    """`remote_trainer.supervisor` without processes: same files, same locks, same decisions."""

    def __init__(self, computer: Computer, folder: Path, epoch: int, pid: int) -> None:
        self.computer, self.folder, self.epoch, self.pid = computer, folder, epoch, pid
        self.alive = False
        self.stage: Stage | None = None
        self.stop_requested = False
        self._lock: IO[str] | None = None
        self._ended = False
        self._watch: Appointment | None = None

    def begin(self) -> None:
        self._lock = folders.acquire(self.folder / folders.SUPERVISOR_LOCK, wait_s=0)
        if self._lock is None:
            return
        self.alive = True
        found = folders.committed_checkpoints(self.folder)
        self._last_step = max((checkpoint.step for checkpoint in found), default=0)
        (self.folder / folders.SUPERVISOR_FILE).write_bytes(wire.dumps({"pid": self.pid, "epoch": self.epoch}))
        (self.folder / wire.LOG_FILE).touch()
        self._log = _Log(self.folder, self.computer.date.now)
        self.say(wire.Hello(wire.PROTOCOL, self.computer.name, "3.11", self.pid, self.epoch))
        self._patience_until_s = self.computer.clock.monotonic() + supervisor.PREVIOUS_STAGE_WAIT_S
        try:
            job = wire.loads(wire.Job, (self.folder / wire.JOB_FILE).read_bytes())
        except (OSError, wire.WireError) as error:
            self.say(wire.Failed("bad-job", f"the job cannot be read: {error}"))
            self._end()
            return
        self._job = job
        self._elapsed = self._count()
        self.computer.clock.after(0.1, self._when_previous_stage_is_gone)

    def _when_previous_stage_is_gone(self) -> None:
        if not self.alive:
            return
        if folders.is_held(self.folder / folders.STAGE_LOCK):
            if self.computer.clock.monotonic() > self._patience_until_s:
                for stage in self.computer.stages():
                    stage.end(-9)
            self.computer.clock.after(0.1, self._when_previous_stage_is_gone)
            return
        self._fruitless_starts = 0
        self._begin_stage("prepare")

    def _begin_stage(self, name: str) -> None:
        self._in_loop = self._stacks_shown = False
        self._asked_at_s: float | None = None
        self._committed_before = self._last_step
        self._heard_s = self._beat_s = self.computer.clock.monotonic()
        self.stage = Stage(self, name, self._job)
        self._watch = self.computer.clock.after(WATCH_S, self._look)
        self.stage.begin()

    def _look(self) -> None:
        if not self.alive or self.stage is None:
            return
        now = self.computer.clock.monotonic()
        asked_for_s = None if self._asked_at_s is None else now - self._asked_at_s
        quiet_s = now - self._heard_s if self._in_loop else 0.0
        view = oversight.StageView(self.stop_requested, self._left_s(), asked_for_s, quiet_s, self._stacks_shown)
        match oversight.urge(view):
            case oversight.Urge.ASK_TO_STOP:
                self._asked_at_s = now
                self.stage.terminate()
            case oversight.Urge.SHOW_STACKS:
                self._stacks_shown = True
            case oversight.Urge.KILL:
                self.stage.end(-9)
            case oversight.Urge.NOTHING:
                pass
        if self.alive and now - self._beat_s >= supervisor.HEARTBEAT_S:
            self._beat_s = now
            self.say(wire.Heartbeat(round(self._tick(), 1), self.stage is not None))
        if self.alive and self.stage is not None:
            self._watch = self.computer.clock.after(WATCH_S, self._look)

    def hear(self, event: wire.Event) -> None:
        """From the stage's pipe."""
        self._heard_s = self.computer.clock.monotonic()
        out_of_time = isinstance(event, wire.Stopped) and self._left_s() <= 0
        self.say(oversight.DEADLINE_REACHED if out_of_time else event)

    def stage_ended(self, name: str, exit_code: int) -> None:
        self.stage = None
        if self._watch is not None:
            self._watch.cancel()
        self._fruitless_starts = self._fruitless_starts + 1 if self._last_step == self._committed_before else 0
        asked_for = self._ended or self.stop_requested or self._stacks_shown or self._left_s() <= 0
        if oversight.worth_starting_again(exit_code, asked_for, self._fruitless_starts):
            self.say(wire.Warned(f"the {name} stage was killed; it starts again from step {self._last_step}"))
            self._begin_stage(name)
            return
        last = name == supervisor.STAGES[-1]
        if not self._ended and (exit_code != 0 or self.stop_requested or last):
            self.say(
                oversight.ending_without_word(
                    exit_code, self.stop_requested, self._left_s() <= 0, self._last_step, self._stacks_shown
                )
            )
        if self._ended:
            self._end()
        else:
            self._fruitless_starts = 0
            self._begin_stage(supervisor.STAGES[supervisor.STAGES.index(name) + 1])

    def say(self, event: wire.Event) -> None:
        if isinstance(event, wire.PhaseStarted):
            self._in_loop = event.name == "train"
        if isinstance(event, wire.CheckpointCommitted):
            self._last_step = event.step
        if isinstance(event, (wire.Done, wire.Failed, wire.Stopped)):
            self._ended = True
        self._log.append(event)
        self.computer.observer.said(self.computer, event)

    def terminate(self) -> None:
        """SIGTERM."""
        self.stop_requested = True

    def kill(self, *, leash_s: float = LEASH_S) -> None:
        """SIGKILL: the log may be left torn, and the stage ends when it notices."""
        stage = self.stage
        if self.alive:
            if self.pid % 2:
                self._log.tear()
            self._end()
        if stage is not None and stage.alive:
            if leash_s:
                self.computer.clock.after(leash_s, lambda: stage.end(-9))
            else:
                stage.end(-9)

    def _end(self) -> None:
        self.alive = False
        self._log.close()
        if self._watch is not None:
            self._watch.cancel()
        assert self._lock is not None
        self._lock.close()

    def _count(self) -> Elapsed:
        content = folders.read_json(self.folder / ELAPSED_FILE)
        known = Elapsed(**content) if content is not None else None
        if known is None or known.machine != self._job.machine:
            known = Elapsed(self._job.machine, 0.0, self._clock_s, str(self.computer.boot))
        return known.at(self._clock_s, str(self.computer.boot))

    @property
    def _clock_s(self) -> float:
        return self.computer.clock.monotonic()

    def _tick(self) -> float:
        self._elapsed = self._elapsed.at(self._clock_s, str(self.computer.boot))
        (self.folder / ELAPSED_FILE).write_text(json.dumps(self._elapsed.__dict__))
        return self._elapsed.elapsed_s

    def _left_s(self) -> float:
        if self._job.deadline_s is None:
            return float("inf")
        return self._job.deadline_s - self._elapsed.at(self._clock_s, str(self.computer.boot)).elapsed_s


class Stage:
    """`prepare` or `train`, as a child of a supervisor."""

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
        elif self.name == "prepare":
            self._emit(wire.PhaseStarted("environment"))
            self._later(PREPARE_S, lambda: self.end(0))
        else:
            self._emit(wire.PhaseStarted("load"))
            self._later(LOAD_S, self._load)

    def terminate(self) -> None:
        """SIGTERM: training ends at the next step, anything else at once."""
        self._stop = True
        if self.name == "prepare":
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
        self._later(self.computer.training.step_s, self._make_step)

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
        try:
            if self.step < of and not self._stop:
                self.step += 1
                self.state = next_state(self.state, self.step)
                self._emit(wire.StepDone(self.step, of, 1.0 / self.step, 1e-4, 2.0))
                if self.step == of // 2:
                    self._show_picture()
                every = self.job.train.checkpoint_every or of
                if self.step % every == 0 or self.step == of or self._stop:
                    self._commit_checkpoint()
            elif self._stop and self.step < of:
                self._commit_checkpoint()
        except TrainingFailed as failure:
            self._fail(failure)
            return
        if self.step == of:
            self._emit(wire.PhaseStarted("export"))
            self._later(EXPORT_S, self._export)
        elif self._stop:
            self._emit(wire.Stopped(self.step))
            self.end(0)
        else:
            self._later(self.computer.training.step_s, self._make_step)

    def _show_picture(self) -> None:
        path = self.folder / wire.VALIDATION_FOLDER / f"{self.step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.state.encode())
        self._emit(wire.SampleMade(self.step, "a photo", commit.file_entry(path, self.folder)))

    def _commit_checkpoint(self) -> None:
        folder = self.folder / wire.checkpoint_folder(self.step)
        if folder.exists():
            return
        manifest = self._commit(folder, {STATE: json.dumps({"step": self.step, "state": self.state}).encode()})
        shown = f"{wire.CHECKPOINTS_FOLDER}/{folder.name}"
        self._emit(wire.CheckpointCommitted(self.step, shown, manifest.sha256, manifest.total_bytes))
        for old in sorted(folder.parent.glob("checkpoint-*"))[: -self.job.train.keep_checkpoints]:
            commit.remove_committed(old)

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


def forget_disk(computer: Computer) -> None:
    """After a schedule. The locks of what still lives are let go with it."""
    computer.kill_all()
    shutil.rmtree(computer.disk, ignore_errors=True)
