"""The simulated supervisor: `remote_trainer.supervisor` without processes. Same files, same locks, same decisions.

What the real one does with processes and pipes happens here as appointments of the clock; what it decides, its own
pure functions decide, and what it tells the guard, its own `Tenancy` tells.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from providers.testing.virtual_clock import Appointment
from remote_trainer import oversight, supervisor, wire
from remote_trainer import run_folder as folders
from remote_trainer.deadline import Allowance
from remote_trainer.hub_token import drop_token
from remote_trainer.tenancy import Tenancy
from remote_trainer.upload_grant import drop_grant
from remote_trainer.uploads import Uploads
from tests.simulation.schedule import Occasion
from tests.simulation.trainer import Stage
from tests.simulation.uploads import uploads_of

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
        self.uploads: Uploads = uploads_of(computer, folder)
        self._lock: IO[str] | None = None
        self._ended: wire.Event | None = None
        self._tenancy: Tenancy | None = None
        self._next: Appointment | None = None

    # ---- from the first word to the last ---------------------------------------------------------------------------

    def begin(self) -> None:
        self._lock = folders.acquire(self.folder / folders.SUPERVISOR_LOCK, wait_s=0)
        if self._lock is None:
            return
        self.alive = True
        self.began_s = self._now()
        found = folders.committed_checkpoints(self.folder)
        self._last_step = max((checkpoint.step for checkpoint in found), default=0)
        (self.folder / folders.SUPERVISOR_FILE).write_bytes(wire.dumps({"pid": self.pid, "epoch": self.epoch}))
        (self.folder / wire.LOG_FILE).touch()
        self._log = _Log(self.folder, self.computer.date.now)
        self.say(wire.Hello(wire.PROTOCOL, self.computer.name, "3.11", self.pid, self.epoch))
        try:
            self._job = wire.loads(wire.Job, (self.folder / wire.JOB_FILE).read_bytes())
        except (OSError, wire.WireError) as error:
            self.say(wire.Failed("bad-job", f"the job cannot be read: {error}"))
            self._end_run()
            return
        job, clocks = self._job, self.computer.clocks
        allowance = Allowance(self.folder, job.machine, job.deadline_s, job.limit_s, clocks)
        self._tenancy = Tenancy(
            self.folder, job, allowance, self.uploads, self.say, lambda _files: self.computer.start_guard_again()
        )
        self._tenancy.begin()
        self._patience_until_s = self._now() + supervisor.PREVIOUS_STAGE_WAIT_S
        self._later(0.1, self._when_previous_stage_is_gone)

    def _when_previous_stage_is_gone(self) -> None:
        if folders.is_held(self.folder / folders.STAGE_LOCK):
            if self._now() > self._patience_until_s:
                for stage in self.computer.stages():
                    stage.end(-9)
            self._later(0.1, self._when_previous_stage_is_gone)
            return
        self._fruitless_starts = 0
        self._stages = supervisor.stages_of(self.folder, self.computer.clocks)
        self._begin_stage(self._stages[0])

    def stage_ended(self, name: str, exit_code: int) -> None:
        assert self._tenancy is not None
        self.stage = None
        self._fruitless_starts = self._fruitless_starts + 1 if self._last_step == self._committed_before else 0
        shown = self._silence.stacks_shown
        asked_for = self._ended is not None or self.stop_requested or shown or self._tenancy.time_left_s <= 0
        if oversight.worth_starting_again(exit_code, asked_for, self._fruitless_starts):
            self.say(wire.Warned(f"the {name} stage was killed; it starts again from step {self._last_step}"))
            self._begin_stage(name)
            return
        last = name == self._stages[-1]
        if self._ended is None and (exit_code != 0 or self.stop_requested or last):
            self.say(
                oversight.ending_without_word(
                    exit_code, self.stop_requested, self._tenancy.out_of_time, self._last_step, shown
                )
            )
        if self._ended is not None:
            self.stop_requested = False
            self._see_uploads_out()
            return
        self._fruitless_starts = 0
        following = self._stages[self._stages.index(name) + 1]
        if following == self._stages[-1]:
            self._tenancy.say_what_is_proven()
        self._begin_stage(following)

    def _see_uploads_out(self) -> None:
        assert self._tenancy is not None
        self._tell_of_uploads()
        if self.uploads.busy() and self._tenancy.may_wait and not self.stop_requested:
            if self._now() - self._beat_s >= supervisor.HEARTBEAT_S:
                self._beat()
            self._later(WATCH_S, self._see_uploads_out)
            return
        self._end_run()

    def _end_run(self) -> None:
        if self._tenancy is not None and self._ended is not None:
            self._tenancy.end(self._ended)
        self._end()
        drop_grant(self.folder)
        drop_token(self.folder)

    def _tell_of_uploads(self) -> None:
        for event in self.uploads.news():
            self.say(event)

    # ---- a stage at work -------------------------------------------------------------------------------------------

    def _begin_stage(self, name: str) -> None:
        self._asked_at_s: float | None = None
        self._committed_before = self._last_step
        self._beat_s = self._now()
        self._silence = oversight.Silence(self._beat_s)
        self.stage = Stage(self, name, self._job)
        self.computer.observer.happened(self.computer, Occasion.STAGE)
        self._later(WATCH_S, self._look)
        self.stage.begin()

    def _look(self) -> None:
        assert self._tenancy is not None
        if self.stage is None:
            return
        now = self._now()
        asked_for_s = None if self._asked_at_s is None else now - self._asked_at_s
        quiet_s, shown = self._silence.quiet_in_loop_s(now), self._silence.stacks_shown
        view = oversight.StageView(self.stop_requested, self._tenancy.time_left_s, asked_for_s, quiet_s, shown)
        self._later(WATCH_S, self._look)
        match oversight.urge(view):
            case oversight.Urge.ASK_TO_STOP:
                self._asked_at_s = now
                self.stage.terminate()
            case oversight.Urge.SHOW_STACKS:
                self._silence.asked_for_stacks(now)
            case oversight.Urge.KILL:
                self.stage.end(-9)
            case oversight.Urge.NOTHING:
                pass
        if self.alive:
            self._tell_of_uploads()
        if self.alive and now - self._beat_s >= supervisor.HEARTBEAT_S:
            self._beat()

    def hear(self, event: wire.Event) -> None:
        """From the stage's pipe."""
        assert self._tenancy is not None
        self._silence.heard(self._now())
        by_the_clock = self._tenancy.out_of_time if isinstance(event, wire.Stopped) else None
        self.say(by_the_clock or event)

    def say(self, event: wire.Event) -> None:
        if isinstance(event, wire.PhaseStarted):
            self._silence.entered(event.name)
        if isinstance(event, wire.CheckpointCommitted):
            self._last_step = event.step
        if isinstance(event, (wire.Done, wire.Failed, wire.Stopped)):
            self._ended = event
        self._log.append(event)
        if self._tenancy is not None:
            self._tenancy.heard(event)
        self.computer.observer.said(self.computer, event)
        occasion = _occasion(event)
        if occasion is not None:
            self.computer.observer.happened(self.computer, occasion)

    # ---- signals ---------------------------------------------------------------------------------------------------

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

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        self.alive = False
        self.uploads.close()
        self._log.close()
        if self._next is not None:
            self._next.cancel()
        assert self._lock is not None
        self._lock.close()

    def _beat(self) -> None:
        assert self._tenancy is not None
        self._beat_s = self._now()
        self.say(wire.Heartbeat(round(self._tenancy.beat(), 1), self.stage is not None))

    def _now(self) -> float:
        return self.computer.clock.monotonic()

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        """One thing at a time, as in the real one's loop."""
        if self._next is not None:
            self._next.cancel()

        def act() -> None:
            if self.alive:
                action()

        self._next = self.computer.clock.after(delay_s, act)


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
