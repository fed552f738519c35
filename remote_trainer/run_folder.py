"""A run's folder on the host: its locks, its event log and what can be read off it. Standard library only, 3.9.

Liveness is an exclusive `flock` held for a process's whole life, not a pid: pids are reused and survive in files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Optional

from . import wire

START_LOCK = "start.lock"
"""Held from a `start` that begins a supervisor until that supervisor has said hello or is gone."""
SUPERVISOR_LOCK = "supervisor.lock"
STAGE_LOCK = "stage.lock"
"""Held by whatever child of the supervisor is at work: two trainers on one folder can never be."""
SUPERVISOR_FILE = "supervisor.json"
STAGE_FILE = "stage.json"
EPOCH_FILE = "driver-epoch"
FORGOTTEN_FOLDER = ".forgotten"
"""Beside the run folders: the highest epoch of each that was removed, so that an overtaken driver stays overtaken."""
CLOSED_FILE = "closed-epoch"
"""The driver epoch that ended everything at once: it and older ones can start nothing any more."""
INCARNATION_FILE = "incarnation"
SYNCED_FILE = "events-synced"
"""How many bytes of the event log are known to have reached the disk."""
LANDMARKS = (wire.Hello, wire.CheckpointCommitted, wire.Heartbeat, wire.Done, wire.Failed, wire.Stopped)
"""Events after which the log is flushed to the disk itself."""


def acquire(path: Path, wait_s: float) -> Optional[IO[str]]:
    """Takes the exclusive lock, trying for `wait_s` (at least once). None when somebody else keeps it.

    The lock lasts until the returned file is closed or the process ends. A failed probe by `is_held` may hold the
    lock for an instant, so callers that must not miss it should wait a second.
    """
    handle = open(path, "a+")
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except OSError:
            if time.monotonic() >= deadline:
                handle.close()
                return None
            time.sleep(0.05)


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock exclusively."""
    try:
        with open(path) as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
            return False
    except FileNotFoundError:
        return False


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces `path` so that a reader or a crash sees the old or the new content, never a mixture."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def is_disk_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def full_disk_forgiven() -> Iterator[None]:
    """For what will be written again before long; every other error passes."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise


def read_json(path: Path) -> Optional[dict[str, Any]]:
    """The object in `path`; None when there is none or it is torn."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_number(path: Path) -> int:
    """0 when there is none or it is torn."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def forgotten_file(run_folder: Path) -> Path:
    return run_folder.parent / FORGOTTEN_FOLDER / run_folder.name


def highest_epoch(run_folder: Path) -> int:
    """Of all drivers that ever called about the run, also before its folder was removed."""
    return max(read_number(run_folder / EPOCH_FILE), read_number(forgotten_file(run_folder)))


def incarnation(run_folder: Path) -> str:
    """The random name of this folder's event log: offsets into another log mean nothing here. Empty before the first.

    Given by `EventLog`, whose writer holds the supervisor's lock; asking changes nothing.
    """
    try:
        return (run_folder / INCARNATION_FILE).read_text().strip()
    except FileNotFoundError:
        return ""


UNWRITTEN_LIMIT = 1 << 20
"""Bytes of events that wait for a full disk before the frequent, dispensable kinds are left out."""


class EventLog:
    """Appends to `events.jsonl`; the one writer is the supervisor.

    Opening cuts a torn last line off, which no reader has consumed: readers stop at the last newline. A log that is
    shorter than what had reached the disk lost its tail (a power cut, a restored volume), and laptops may have copied
    what is gone: it is kept aside, and an empty one begins under another incarnation.
    """

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder
        path = run_folder / wire.EVENTS_FILE
        content = _whole_lines_of(path)
        if len(content) < read_number(run_folder / SYNCED_FILE):
            if path.exists():
                os.replace(path, run_folder / f"events-before-{uuid.uuid4().hex[:12]}.jsonl")
            # This order: killed in between, the next opening finds the log missing and begins anew again.
            _begin_incarnation(run_folder)
            (run_folder / SYNCED_FILE).unlink()
            content = b""
        elif not incarnation(run_folder):
            _begin_incarnation(run_folder)
        self._handle = open(path, "ab", buffering=0)
        self._handle.truncate(len(content))
        self._next_seq = content.count(b"\n")
        self._unwritten = b""

    def append(self, event: wire.Event) -> None:
        """Written (not merely in a buffer of ours) when it returns; one of LANDMARKS is on the disk itself.

        On a full disk it waits in memory, and goes with the next call that finds room.
        """
        if len(self._unwritten) > UNWRITTEN_LIMIT and isinstance(event, (wire.StepDone, wire.Heartbeat)):
            return
        self._unwritten += wire.encode_event(event, self._next_seq, time.time())
        self._next_seq += 1
        if self.write_out() and isinstance(event, LANDMARKS):
            with full_disk_forgiven():
                os.fsync(self._handle.fileno())
                size = os.fstat(self._handle.fileno()).st_size
                write_atomically(self._folder / SYNCED_FILE, str(size).encode())

    def write_out(self) -> bool:
        """Tries to write what waits; whether nothing waits any more. A line may be written in pieces."""
        with full_disk_forgiven():
            while self._unwritten:
                self._unwritten = self._unwritten[self._handle.write(self._unwritten) or 0 :]
        return not self._unwritten

    def close(self) -> None:
        self._handle.close()


def _begin_incarnation(run_folder: Path) -> None:
    write_atomically(run_folder / INCARNATION_FILE, uuid.uuid4().hex[:12].encode())


def events_after_last_hello(run_folder: Path) -> list[wire.Event]:
    """What the newest supervisor has said so far."""
    latest: list[wire.Event] = []
    for event in _events(run_folder):
        if isinstance(event, wire.Hello):
            latest.clear()
        latest.append(event)
    return latest


def _events(run_folder: Path) -> Iterator[wire.Event]:
    for line in _whole_lines_of(run_folder / wire.EVENTS_FILE).splitlines():
        yield wire.decode_event(line).event


def _whole_lines_of(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b""
    return content[: content.rfind(b"\n") + 1]


def committed(run_folder: Path, folder: str) -> Optional[wire.CommittedFolder]:
    """The folder as its manifest states it; None without a readable manifest. File contents are not hashed here."""
    try:
        raw = (run_folder / folder / wire.MANIFEST_NAME).read_bytes()
        manifest = wire.Manifest.from_bytes(raw)
    except (OSError, wire.WireError):
        return None
    return wire.CommittedFolder(manifest.step, folder, manifest.sha256)


def committed_checkpoints(run_folder: Path) -> list[wire.CommittedFolder]:
    """Oldest first."""
    root = run_folder / wire.CHECKPOINTS_FOLDER
    names = sorted(entry.name for entry in root.iterdir()) if root.is_dir() else []
    found = (committed(run_folder, f"{wire.CHECKPOINTS_FOLDER}/{name}") for name in names if name[0] != ".")
    return sorted((folder for folder in found if folder), key=lambda folder: folder.step)
