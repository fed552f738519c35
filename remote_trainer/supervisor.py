"""Runs a job on the host and outlives the laptop. Standard library only, Python 3.9 or later.

One supervisor per run folder, detached from any login. It works through stages, each a child in its own process
group: `prepare` finds or builds the Python environment, `train` trains (or `pictures` makes some). A stage sends its
events through a pipe; the supervisor is the only writer of `events.jsonl`. The stage's stdin is a leash: when the
supervisor dies, however suddenly, the stage reads end-of-file and ends itself, so that no orphan trains on.
"""

from __future__ import annotations

import contextlib
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Optional

from . import run_folder as folders
from . import wire
from .deadline import HERE, Allowance, Clocks
from .hub_token import drop_token, token_file
from .lease import GuardFiles
from .oversight import DISK_FULL, Silence, StageView, Urge, ending_without_word, urge, worth_starting_again
from .rendezvous import noted
from .store_uploads import StoreUploads
from .tenancy import Tenancy
from .upload_grant import drop_grant, held_grant
from .uploads import Uploads

HEARTBEAT_S = 15.0
POLL_S = 0.5
PREVIOUS_STAGE_WAIT_S = 20.0
LAST_WORD_PATIENCE_S = 20.0
"""How long an ended run waits for room to write down how it ended."""
PREPARED_FILE = "environment.json"
STAGES = ("prepare", "train")
PICTURES_STAGE = "pictures"
"""In place of training, for a job that trains nothing."""
STORAGE_STAGE = "storage"
"""First of all where uploads were lent for: a store out of reach must not be found out after training."""


def supervise(run_folder: Path, epoch: int, start_fd: Optional[int] = None) -> int:
    """Runs the job to a terminal event. Returns at once (0) when another supervisor holds the folder.

    Likewise (1) when a `stop --now` closed the epoch while we were being born.

    `start_fd` holds the start lock, which is let go after the hello.
    """
    lock = folders.acquire(run_folder / folders.SUPERVISOR_LOCK, wait_s=2)
    if lock is None:
        return 0
    with lock:
        if epoch <= folders.read_number(run_folder / folders.CLOSED_FILE):
            print(f"driver epoch {epoch} was closed before this supervisor began", file=sys.stderr)
            return 1
        supervisor = _Supervisor(run_folder, epoch, StoreUploads(run_folder))
        if start_fd is not None:
            os.close(start_fd)
        supervisor.run()
        drop_grant(run_folder)  # what was lent was lent for this
        drop_token(run_folder)
        # While the lock is ours: the next holder must not be taken for us.
        (run_folder / folders.SUPERVISOR_FILE).unlink(missing_ok=True)
    return 0


class _Supervisor:
    def __init__(self, run_folder: Path, epoch: int, uploads: Uploads) -> None:
        self._folder, self._uploads = run_folder, uploads
        self._stop_requested = False
        self._silence = Silence(time.monotonic())
        self._ended: Optional[wire.Event] = None
        self._tenancy: Optional[Tenancy] = None
        self._last_step = max((c.step for c in folders.committed_checkpoints(run_folder)), default=0)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        record = {"pid": os.getpid(), "epoch": epoch}
        folders.write_atomically(run_folder / folders.SUPERVISOR_FILE, wire.dumps(record))
        self._log = folders.EventLog(run_folder)
        self._say(wire.Hello(wire.PROTOCOL, socket.gethostname(), platform.python_version(), os.getpid(), epoch))

    def run(self) -> None:
        """To a terminal event, and until that is written down (on a full disk for `LAST_WORD_PATIENCE_S` at most)."""
        try:
            self._work()
        except OSError as error:
            if not folders.is_disk_full(error):
                raise
            self._say(DISK_FULL)
        if self._tenancy is not None and self._ended is not None:
            self._see_uploads_out(self._tenancy)
            self._tenancy.end(self._ended)
        self._uploads.close()
        give_up_at = time.monotonic() + LAST_WORD_PATIENCE_S
        while not self._log.write_out() and time.monotonic() < give_up_at:
            time.sleep(POLL_S)

    def _work(self) -> None:
        try:
            job = wire.loads(wire.Job, (self._folder / wire.JOB_FILE).read_bytes())
        except (OSError, wire.WireError) as error:
            self._say(wire.Failed("bad-job", f"the job cannot be read: {error}"))
            return
        allowance = Allowance(self._folder, job.machine, job.deadline_s, job.limit_s)
        self._tenancy = tenancy = Tenancy(self._folder, job, allowance, self._uploads, self._say)
        tenancy.begin()
        if not self._previous_stage_is_gone():
            self._say(wire.Failed("internal", "an earlier trainer of this run does not end"))
            return
        work = STAGES[-1] if job.pictures is None else PICTURES_STAGE
        for stage in stages_of(self._folder, work=work):
            if stage == work:
                tenancy.say_what_is_proven()
            exit_code = self._run_to_an_end(stage, job, tenancy)
            if self._ended is None and (exit_code != 0 or self._stop_requested or stage == work):
                self._say(self._last_word(exit_code, tenancy))
            if self._ended is not None:
                return

    def _run_to_an_end(self, stage: str, job: wire.Job, tenancy: Tenancy) -> int:
        """Starts a stage that was killed again while that makes sense. The last exit code."""
        fruitless_starts = 0
        while True:
            committed_before = self._last_step
            exit_code = self._run_stage(stage, job, tenancy)
            fruitless_starts = fruitless_starts + 1 if self._last_step == committed_before else 0
            asked_for = (
                self._ended is not None
                or self._stop_requested
                or self._silence.stacks_shown
                or tenancy.time_left_s <= 0
            )
            if not worth_starting_again(exit_code, asked_for, fruitless_starts):
                return exit_code
            name = signal.Signals(-exit_code).name
            self._say(
                wire.Warned(
                    f"the {stage} stage was killed by {name}; it starts again from step {self._last_step}",
                    "if it recurs, the host may lack memory",
                )
            )

    def _last_word(self, exit_code: int, tenancy: Tenancy) -> wire.Event:
        return ending_without_word(
            exit_code, self._stop_requested, tenancy.out_of_time, self._last_step, self._silence.stacks_shown
        )

    def _see_uploads_out(self, tenancy: Tenancy) -> None:
        """What is under way to the store is waited for while the machine is paid for. A second signal ends that."""
        beat_at = time.monotonic()
        self._stop_requested = False
        while self._uploads.busy() and tenancy.may_wait and not self._stop_requested:
            time.sleep(POLL_S)
            self._tell_of_uploads()
            if time.monotonic() - beat_at >= HEARTBEAT_S:
                beat_at = time.monotonic()
                self._say(wire.Heartbeat(round(tenancy.beat(), 1), trainer_alive=False))
        self._tell_of_uploads()

    def _tell_of_uploads(self) -> None:
        for event in self._uploads.news():
            self._say(event)

    def _previous_stage_is_gone(self) -> bool:
        """Waits for a stage whose supervisor died (its leash is cut), then kills it."""
        path = self._folder / folders.STAGE_LOCK
        for patience in (PREVIOUS_STAGE_WAIT_S, 5.0):
            free = folders.acquire(path, wait_s=patience)
            if free is not None:
                free.close()
                return True
            recorded = folders.read_json(self._folder / folders.STAGE_FILE)
            if recorded is not None:
                _kill_group(int(recorded["pgid"]), signal.SIGKILL)
        return False

    def _run_stage(self, stage: str, job: wire.Job, tenancy: Tenancy) -> int:
        """The stage inherits its lock: it counts as alive from its birth, not from when Python has started."""
        lock = folders.acquire(self._folder / folders.STAGE_LOCK, wait_s=PREVIOUS_STAGE_WAIT_S)
        if lock is None:
            raise RuntimeError("another stage of this run is at work")
        (self._folder / folders.STAGE_FILE).unlink(missing_ok=True)  # names the stage before, whose number is free now
        read_end, write_end = os.pipe()
        with lock, open(self._folder / wire.LOG_FILE, "ab") as log:
            child = subprocess.Popen(
                self._stage_argv(stage, write_end, lock.fileno()),
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
                pass_fds=(write_end, lock.fileno()), env=stage_environment(job, self._folder),
            )  # fmt: skip
        os.close(write_end)
        try:
            folders.write_atomically(self._folder / folders.STAGE_FILE, wire.dumps({"pgid": child.pid}))
            self._watch(child, read_end, tenancy)
        finally:
            os.close(read_end)
            if child.stdin:
                child.stdin.close()  # the leash: whatever keeps us from watching ends the stage
            exit_code = child.wait()
            _kill_group(child.pid, signal.SIGKILL)  # whatever the stage left behind in its group
        return exit_code

    def _stage_argv(self, stage: str, events_fd: int, lock_fd: int) -> list[str]:
        python = sys.executable
        if stage in (STAGES[-1], PICTURES_STAGE):
            prepared = folders.read_json(self._folder / PREPARED_FILE) or {}
            python = str(prepared.get("python", sys.executable))
        return [
            python, "-m", "remote_trainer", stage, "--run-folder", str(self._folder), "--events-fd", str(events_fd),
            "--lock-fd", str(lock_fd),
        ]  # fmt: skip

    def _watch(self, child: Any, read_end: int, tenancy: Tenancy) -> None:
        """Copies events and keeps time until the stage has closed its pipe and ended."""
        buffer = b""
        asked_at: Optional[float] = None
        beat_at = time.monotonic()
        self._silence = Silence(beat_at)
        pipe_open = True
        while pipe_open or child.poll() is None:
            if pipe_open and select.select([read_end], [], [], POLL_S)[0]:
                chunk = os.read(read_end, 1 << 16)
                pipe_open = bool(chunk)
                if chunk:
                    self._silence.heard(time.monotonic())
                buffer += chunk
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    event = wire.decode_event(line).event
                    by_the_clock = tenancy.out_of_time if isinstance(event, wire.Stopped) else None
                    self._say(by_the_clock or event)
            elif not pipe_open:
                time.sleep(0.02)
            elif child.poll() is not None:
                return  # a stray grandchild may hold the pipe; the stage itself is over
            now = time.monotonic()
            asked_for = None if asked_at is None else now - asked_at
            quiet_s, shown = self._silence.quiet_in_loop_s(now), self._silence.stacks_shown
            action = urge(StageView(self._stop_requested, tenancy.time_left_s, asked_for, quiet_s, shown))
            if action is Urge.ASK_TO_STOP:
                asked_at = now
                _kill_group(child.pid, signal.SIGTERM)
            elif action is Urge.SHOW_STACKS:
                self._silence.asked_for_stacks(now)
                _kill_group(child.pid, signal.SIGUSR1)
            elif action is Urge.KILL:
                _kill_group(child.pid, signal.SIGKILL)
            self._tell_of_uploads()
            if now - beat_at >= HEARTBEAT_S:
                beat_at = now
                self._say(wire.Heartbeat(round(tenancy.beat(), 1), trainer_alive=child.poll() is None))

    def _say(self, event: wire.Event) -> None:
        if isinstance(event, wire.PhaseStarted):
            self._silence.entered(event.name)
        if isinstance(event, wire.CheckpointCommitted):
            self._last_step = event.step
        if isinstance(event, (wire.Done, wire.Failed, wire.Stopped)):
            self._ended = event
        self._log.append(event)
        if self._tenancy is not None:
            self._tenancy.heard(event)

    def _on_sigterm(self, _number: int, _frame: object) -> None:
        self._stop_requested = True


def stages_of(run_folder: Path, clocks: Clocks = HERE, *, work: str = STAGES[-1]) -> tuple[str, ...]:
    """What a supervisor works through, `work` last. Before the first checkpoint a store out of reach is a setting to
    mend; later it is no reason to end a run.
    """
    held = held_grant(run_folder, clocks)
    lent = held is not None and held.left_s(clocks) > 0
    stages = (*STAGES[:-1], work)
    return (STORAGE_STAGE, *stages) if lent and not folders.committed_checkpoints(run_folder) else stages


def stage_environment(job: wire.Job, run_folder: Path) -> dict[str, str]:
    """Our environment plus what a stage needs to behave the same everywhere.

    A rented machine, which has a guard, gets downloads of the hub beside the work folder's other things: on the volume,
    which outlives a restart of the container, and where the machine's next run finds them. A lent token is named by its
    file, and stands in no environment. Where several machines meet stands in that of the boot alone, which a login over
    SSH does not see.
    """
    guard, token = GuardFiles.above(run_folder), token_file(run_folder)
    environment = {**noted(), **os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment["PYTHONUNBUFFERED"] = "1"
    if guard is not None:
        environment.setdefault("HF_HOME", str(guard.workdir / "hub"))
    if token is not None:
        environment["HF_TOKEN_PATH"] = str(token)
    if job.train.cpu_threads is not None:
        environment["OMP_NUM_THREADS"] = str(job.train.cpu_threads)
    return environment


def _kill_group(pgid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, number)
