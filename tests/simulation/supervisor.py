"""The simulated supervisor: `remote_trainer.supervisor` without processes. Same files, same locks, same decisions.

What the real one does with processes and pipes happens here as appointments of the clock; what it decides, its own
pure functions decide.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from providers.testing.virtual_clock import Appointment
from remote_trainer import oversight, supervisor, wire
from remote_trainer import run_folder as folders
from remote_trainer.deadline import ELAPSED_FILE, Elapsed
from tests.simulation.schedule import Occasion
from tests.simulation.trainer import Stage

if TYPE_CHECKING:
    from tests.simulation.computer import Computer

WATCH_S = 2.0
"""How often the supervisor looks at its stage; the real one looks every half second."""
LEASH_S = 0.5
"""How long a stage outlives its supervisor."""


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
        self.computer.observer.happened(self.computer, Occasion.STAGE)
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
        by_the_clock = oversight.out_of_time(self._left_s()) if isinstance(event, wire.Stopped) else None
        self.say(by_the_clock or event)

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
                    exit_code,
                    self.stop_requested,
                    oversight.out_of_time(self._left_s()),
                    self._last_step,
                    self._stacks_shown,
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
        occasion = _occasion(event)
        if occasion is not None:
            self.computer.observer.happened(self.computer, occasion)

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
        return self.computer.boot_clock_s

    def _tick(self) -> float:
        self._elapsed = self._elapsed.at(self._clock_s, str(self.computer.boot))
        (self.folder / ELAPSED_FILE).write_text(json.dumps(self._elapsed.__dict__))
        return self._elapsed.elapsed_s

    def _left_s(self) -> float:
        if self._job.deadline_s is None:
            return float("inf")
        return self._job.deadline_s - self._elapsed.at(self._clock_s, str(self.computer.boot)).elapsed_s


def _occasion(event: wire.Event) -> Occasion | None:
    match event:
        case wire.PhaseStarted("train"):
            return Occasion.LOOP
        case wire.PhaseStarted("export"):
            return Occasion.EXPORT
        case wire.CheckpointCommitted():
            return Occasion.CHECKPOINT
        case wire.Done() | wire.Failed() | wire.Stopped():
            return Occasion.OVER
    return None
