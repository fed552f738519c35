"""Answers the laptop on the host: one function for each of its calls. Standard library only, 3.9.

Every call is one short process (`follow` ends with its connection), safe to repeat, and says what it
found rather than what it remembers. Calls that change something carry the driver's epoch: a laptop that wakes from
sleep after another process took the run over is refused.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO, Optional

from . import only_copy, wire
from . import run_folder as folders
from .contact import CONTACT_EVERY_S, contact
from .deadline import HERE, Clocks
from .hub_token import drop_token
from .lease import GuardFiles
from .upload_grant import drop_grant, held_grant

STALE_EPOCH_EXIT = 75
"""Exit code of a call whose epoch is older than one already seen."""
FOLLOW_POLL_S = 0.1
SIGN_OF_LIFE_S = 1.0
START_TIMEOUT_S = 20.0
STOP_NOW_TIMEOUT_S = 20.0
ROOM_TO_START_BYTES = 1 << 16
NAMELESS = "a supervisor lives but has not said which process it is"


class StaleEpoch(Exception):
    """Another driver has shown a higher epoch, or this one has ended everything."""


class AgentError(Exception):
    """The call cannot be answered; the text goes to stderr as it is."""


def claim(run_folder: Path, epoch: int) -> None:
    """Records the epoch; raises StaleEpoch when a higher one is on record, be the run's folder removed since or not."""
    require_newest(run_folder, epoch)
    run_folder.mkdir(parents=True, exist_ok=True)
    lock = folders.acquire(run_folder / "epoch.lock", wait_s=10)
    if lock is None:
        raise AgentError("the run's epoch file is locked by another call")
    with lock:
        known = folders.read_number(run_folder / folders.EPOCH_FILE)
        if epoch < known:
            raise StaleEpoch(f"driver epoch {epoch} is older than {known}")
        if epoch > known:
            folders.write_atomically(run_folder / folders.EPOCH_FILE, str(epoch).encode())


def require_newest(run_folder: Path, epoch: int) -> None:
    """Raises StaleEpoch when a driver with a higher epoch has called since; changes nothing."""
    newest = folders.highest_epoch(run_folder)
    if epoch < newest:
        raise StaleEpoch(f"driver epoch {epoch} is older than {newest}")


def status(run_folder: Path, clocks: Clocks = HERE) -> wire.HostStatus:
    """Reads everything from disk and lock table; changes nothing."""
    latest = folders.events_after_last_hello(run_folder)
    ended: Optional[str] = None
    for event in latest:
        if isinstance(event, (wire.Done, wire.Failed, wire.Stopped)):
            ended = event.TYPE
    alive = folders.is_held(run_folder / folders.SUPERVISOR_LOCK)
    recorded = folders.read_json(run_folder / folders.SUPERVISOR_FILE) or {}
    events = run_folder / wire.EVENTS_FILE
    guard = GuardFiles.above(run_folder)
    lent = held_grant(run_folder, clocks)
    existing = run_folder if run_folder.exists() else run_folder.parent
    return wire.HostStatus(
        incarnation=folders.incarnation(run_folder),
        supervisor_pid=recorded.get("pid", 0) if alive else None,
        trainer_alive=folders.is_held(run_folder / folders.STAGE_LOCK),
        driver_epoch=folders.highest_epoch(run_folder),
        events_bytes=events.stat().st_size if events.exists() else 0,
        started=bool(latest),
        ended=ended,  # type: ignore[arg-type]  # Event.TYPE is a plain str
        checkpoints=tuple(folders.committed_checkpoints(run_folder)),
        output=folders.committed(run_folder, wire.OUTPUT_FOLDER),
        free_bytes=shutil.disk_usage(existing).free if existing.exists() else 0,
        lent_s=None if lent is None else lent.left_s(clocks),
        guard=None if guard is None else guard.status(clocks.boot_clock()),
    )


def start(run_folder: Path, epoch: int) -> wire.HostStatus:
    """Makes sure that a supervisor runs, unless the run is already done; returns once it does.

    Twice is safe, at once too: the second call waits for the first and finds its supervisor. Raises StaleEpoch also
    after a `stop` of this epoch with `now`: a call that was on its way then must leave nothing behind.
    """
    claim(run_folder, epoch)
    starting = folders.acquire(run_folder / folders.START_LOCK, wait_s=START_TIMEOUT_S)
    if starting is None:
        raise AgentError(f"another start has been under way for {START_TIMEOUT_S:.0f} s; see {wire.LOG_FILE}")
    with starting:
        if epoch <= folders.read_number(run_folder / folders.CLOSED_FILE):
            raise StaleEpoch(f"driver epoch {epoch} has ended everything; a later one may start again")
        current = status(run_folder)
        if current.supervisor_pid is not None or current.ended == "done":
            return current
        return _begin_supervisor(run_folder, epoch, current, starting.fileno())


def _begin_supervisor(run_folder: Path, epoch: int, current: wire.HostStatus, start_fd: int) -> wire.HostStatus:
    """The supervisor inherits the start lock: should we be killed, nobody mistakes its birth for its absence."""
    _require_room(run_folder)
    (run_folder / folders.SUPERVISOR_FILE).unlink(missing_ok=True)  # names the one before, whose number is free now
    argv = [
        sys.executable, "-m", "remote_trainer", "supervise", "--run-folder", str(run_folder), "--epoch", str(epoch),
        "--start-fd", str(start_fd),
    ]  # fmt: skip
    with open(run_folder / wire.LOG_FILE, "ab") as log:
        log_before = log.tell()
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, pass_fds=(start_fd,)
        )
    hello_after = current.events_bytes
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        current = status(run_folder)
        if current.events_bytes > hello_after and current.started:
            return current
        if child.poll() not in (None, 0):
            said = _last_line(run_folder / wire.LOG_FILE, log_before) or f"see {wire.LOG_FILE}"
            raise AgentError(f"the supervisor ended at once with exit code {child.returncode}: {said}")
        time.sleep(0.05)
    raise AgentError(f"the supervisor did not report within {START_TIMEOUT_S:.0f} s; see {wire.LOG_FILE}")


def _require_room(run_folder: Path) -> None:
    """Raises OSError on a full disk, on which a supervisor could neither work nor say why it does not."""
    probe = run_folder / f".room.{os.getpid()}"
    try:
        with open(probe, "wb", buffering=0) as handle:
            missing = ROOM_TO_START_BYTES
            while missing > 0:
                missing -= handle.write(bytes(missing))
            os.fsync(handle.fileno())
    finally:
        probe.unlink(missing_ok=True)


def _last_line(path: Path, offset: int) -> str:
    """The last thing said in a log after `offset`; empty when nothing was."""
    with open(path, "rb") as handle:
        handle.seek(offset)
        lines = handle.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def stop(run_folder: Path, epoch: int, *, now: bool) -> wire.HostStatus:
    """Asks for checkpoint and end (`now=False`), or ends everything, closes the epoch and returns when it is gone.

    When it returns, a supervisor that lived or was about to has its signal. Twice is safe.
    """
    with folders.full_disk_forgiven():  # ending things is how room comes about
        claim(run_folder, epoch)
        if now:
            # Before anything is looked at: a start that comes too late for the kill finds its epoch closed.
            folders.write_atomically(run_folder / folders.CLOSED_FILE, str(epoch).encode())
    # One that is about to begin would miss its signal; one that takes longer than this is hanging.
    starting = folders.acquire(run_folder / folders.START_LOCK, wait_s=START_TIMEOUT_S / 2)
    if starting is not None:
        starting.close()
    deadline = time.monotonic() + STOP_NOW_TIMEOUT_S
    while True:
        pid = status(run_folder).supervisor_pid
        if pid:
            _signal(pid, signal.SIGKILL if now else signal.SIGTERM)
        if now:
            _end_stage(run_folder)
        current = status(run_folder)
        gone = current.supervisor_pid is None and not current.trainer_alive
        if gone or (pid != 0 and not now):
            return current
        if time.monotonic() > deadline:
            raise AgentError("processes of the run are still alive after SIGKILL" if now else NAMELESS)
        time.sleep(0.05)


def forget(run_folder: Path, epoch: int) -> None:
    """Removes the run's folder, photos and all. Twice is safe. Refused while anything of the run lives.

    What is kept is the epoch: a driver that was overtaken before could start the run anew otherwise.
    """
    if not run_folder.exists():
        drop_grant(run_folder)
        drop_token(run_folder)
        return
    with folders.full_disk_forgiven():
        claim(run_folder, epoch)
    drop_grant(run_folder)
    drop_token(run_folder)
    current = status(run_folder)
    if current.supervisor_pid is not None or current.trainer_alive:
        raise AgentError("the run is still at work")
    tombstone = folders.forgotten_file(run_folder)
    with folders.full_disk_forgiven():
        tombstone.parent.mkdir(exist_ok=True)
        folders.write_atomically(tombstone, str(current.driver_epoch).encode())
    shutil.rmtree(run_folder)
    guard = GuardFiles.above(run_folder)
    if guard is not None:
        only_copy.review(guard)


def follow(run_folder: Path, offset: int, out: BinaryIO, leash: int) -> None:
    """Copies whole lines of `events.jsonl` from byte `offset` to `out` as they come, an empty line each quiet second.

    What is sent has reached the disk: after a power cut the log is never shorter than the laptop's copy.
    Ends when nothing more can come (no supervisor lives and everything is sent) or when `leash` (stdin) reaches its
    end, which is how a broken connection shows.
    """
    path = run_folder / wire.EVENTS_FILE
    shown_life_at = noted_at = time.monotonic()
    while True:
        alive = folders.is_held(run_folder / folders.SUPERVISOR_LOCK)  # looked at before the last read, not after
        whole = _whole_lines(path, offset)
        if whole:
            _flush_to_disk(path)
        offset += len(whole)
        now = time.monotonic()
        if not whole and now - shown_life_at >= SIGN_OF_LIFE_S:
            whole = b"\n"
        if whole:
            shown_life_at = now
            out.write(whole)
            out.flush()
        if now - noted_at >= CONTACT_EVERY_S:
            noted_at = now
            contact(run_folder, renew=False)
        if not alive:
            return
        readable, _, _ = select.select([leash], [], [], FOLLOW_POLL_S)
        if readable and not os.read(leash, 4096):
            return


def _whole_lines(path: Path, offset: int) -> bytes:
    try:
        with open(path, "rb") as handle:
            handle.seek(offset)
            fresh = handle.read()
    except FileNotFoundError:
        return b""
    return fresh[: fresh.rfind(b"\n") + 1]


def _flush_to_disk(path: Path) -> None:
    """Any process may: a file's unwritten pages belong to no descriptor. A disk that cannot is no reason to be mute."""
    with contextlib.suppress(OSError), open(path, "rb") as handle:
        os.fsync(handle.fileno())


def _end_stage(run_folder: Path) -> None:
    """Kills the process group of the stage at work, if one is: the lock says so, the file says who."""
    recorded: dict[str, int] = folders.read_json(run_folder / folders.STAGE_FILE) or {}
    if "pgid" in recorded and folders.is_held(run_folder / folders.STAGE_LOCK):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(recorded["pgid"], signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
