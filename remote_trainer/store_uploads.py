"""Keeps the store up to date with a run's folder, by one uploader at a time. Standard library only, Python 3.9.

The uploader is a child of the supervisor on a leash, as the stages are: it ends with the supervisor, at once, and the
next one goes on. Nothing here waits: whoever holds this asks for `news` every second or so, and that moves it on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Optional, Protocol

from . import run_folder as folders
from . import wire
from .deadline import HERE, Clocks
from .upload import LOCK_FILE, newest_artifact
from .upload_grant import grant_file, held_grant
from .upload_ring import in_store

RETRY_S = 30.0
TRIES = 4
"""For one folder with one grant: after that it is given up, until there is a newer folder or a newer grant."""
LOOK_EVERY_S = 2.0
"""Between looks for a newer grant."""


class Uploader(Protocol):
    """One uploader at work: `upload.bring_up_to_date` once, beside its supervisor."""

    def events(self) -> list[wire.Event]:
        """What it has said since the last call. Does not block."""
        ...

    def exit_code(self) -> Optional[int]:
        """None while it is at work. What it said last can still be had afterwards."""
        ...

    def end(self) -> None:
        """At once, if it is at work, and what belongs to it is let go. Twice is safe."""
        ...


Begin = Callable[[Path], Optional[Uploader]]
"""Starts an uploader for a run's folder; None while another one holds its lock."""


class StoreUploads:
    """Implements `uploads.Uploads`. Whoever simulates a machine hands in other clocks and other uploaders."""

    def __init__(
        self, run_folder: Path, clocks: Clocks = HERE, retry_s: float = RETRY_S, begin: Optional[Begin] = None
    ) -> None:
        self._folder, self._clocks, self._clock, self._retry_s = run_folder, clocks, clocks.monotonic, retry_s
        self._begin_uploader = begin or UploaderProcess.begin
        self._saved = in_store(run_folder)
        self._wanted: dict[str, float] = {}
        """Manifest to the second of its `begin`, newest last, of what is not in the store."""
        self._tries = 0
        self._not_before_s = 0.0
        self._looked_at_s = 0.0
        self._grant_seen: Optional[int] = None
        self._grant_seen = self._grant_mark()
        self._uploader: Optional[Uploader] = None
        self._news: list[wire.Event] = []
        self._said: set[str] = set()
        self._longest_s: Optional[float] = None

    @property
    def active(self) -> bool:
        return self._grant_seen is not None

    @property
    def longest_s(self) -> Optional[float]:
        return self._longest_s

    def begin(self, folder: wire.CommittedFolder) -> None:
        if folder.manifest_sha256 not in self._saved and folder.manifest_sha256 not in self._wanted:
            self._wanted[folder.manifest_sha256] = self._clock()
            self._try_anew()
        self._move_on()

    def saved(self) -> frozenset[str]:
        self._move_on()
        return self._saved

    def busy(self) -> bool:
        self._move_on()
        return self._uploader is not None or self._worth_trying()

    def news(self) -> list[wire.Event]:
        """What there is to say since the last call."""
        self._move_on()
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        """Ends an uploader that is at work. Twice is safe."""
        if self._uploader is not None:
            self._uploader.end()
            self._reap(self._uploader)

    def _worth_trying(self) -> bool:
        return self.active and bool(self._wanted) and self._tries < TRIES

    def _move_on(self) -> None:
        self._look_for_a_grant()
        if self._uploader is not None:
            over = self._uploader.exit_code() is not None
            self._listen(self._uploader)
            if over:
                self._reap(self._uploader)
        if self._uploader is None and self._worth_trying() and self._clock() >= self._not_before_s:
            self._start()

    def _look_for_a_grant(self) -> None:
        now_s = self._clock()
        if now_s - self._looked_at_s < LOOK_EVERY_S:
            return
        self._looked_at_s = now_s
        mark = self._grant_mark()
        if mark != self._grant_seen:
            self._grant_seen = mark
            self._try_anew()

    def _try_anew(self) -> None:
        self._tries, self._not_before_s = 0, 0.0

    def _grant_mark(self) -> Optional[int]:
        """Differs for every grant; None while there is none of this boot. The same file is read once."""
        with contextlib.suppress(OSError):
            written_ns = grant_file(self._folder).stat().st_mtime_ns
            if written_ns == self._grant_seen:
                return written_ns
            if held_grant(self._folder, self._clocks) is not None:
                return written_ns
        return None

    def _start(self) -> None:
        self._uploader = self._begin_uploader(self._folder)
        if self._uploader is not None:  # that of an earlier supervisor is about to end otherwise
            self._tries += 1

    def _listen(self, uploader: Uploader) -> None:
        for event in uploader.events():
            self._heard(event)

    def _heard(self, event: wire.Event) -> None:
        if isinstance(event, wire.Failed):  # the uploader's own end is none of the run
            event = wire.Warned(f"the uploader ended: {event.message}", event.hint)
        if isinstance(event, wire.Warned):
            if event.message in self._said:
                return
            self._said.add(event.message)
        if isinstance(event, wire.Uploaded):
            self._saved |= {event.manifest_sha256}
            began_s = self._wanted.pop(event.manifest_sha256, None)
            if began_s is not None:
                self._longest_s = max(self._clock() - began_s, self._longest_s or 0.0)
        self._news.append(event)

    def _reap(self, uploader: Uploader) -> None:
        self._listen(uploader)
        uploader.end()
        self._uploader = None
        if uploader.exit_code() == 0:
            self._saved |= in_store(self._folder)  # also what one that was killed brought and could not say
            self._wanted.clear()  # what is older than what it brought need not follow
            self._want_what_is_newer()
        else:
            self._not_before_s = self._clock() + self._retry_s

    def _want_what_is_newer(self) -> None:
        """What was committed while the uploader was at its end."""
        newest = newest_artifact(self._folder)
        if newest is not None and newest.manifest_sha256 not in self._saved:
            self._wanted[newest.manifest_sha256] = self._clock()
            self._try_anew()


class UploaderProcess:
    """A child on a leash. Implements `Uploader`."""

    def __init__(self, child: subprocess.Popen[bytes], pipe: int) -> None:
        self._child, self._pipe = child, pipe
        self._line = b""
        self._rest: Optional[list[wire.Event]] = None
        """What was said before the end and not asked for yet."""

    @classmethod
    def begin(cls, run_folder: Path) -> Optional[UploaderProcess]:
        lock = folders.acquire(run_folder / LOCK_FILE, wait_s=0)
        if lock is None:
            return None
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        with lock, open(run_folder / wire.LOG_FILE, "ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "remote_trainer", "upload", "--run-folder", str(run_folder),
                 "--events-fd", str(write_end), "--lock-fd", str(lock.fileno())],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
                pass_fds=(write_end, lock.fileno()),
            )  # fmt: skip
        os.close(write_end)
        return cls(child, read_end)

    @property
    def pid(self) -> int:
        return self._child.pid

    def events(self) -> list[wire.Event]:
        heard, self._rest = self._rest, [] if self._rest is not None else None
        if heard is not None:
            return heard
        heard = []
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._pipe, 1 << 16):
                *lines, self._line = (self._line + chunk).split(b"\n")
                heard += [wire.decode_event(line).event for line in lines]
        return heard

    def exit_code(self) -> Optional[int]:
        return self._child.poll()

    def end(self) -> None:
        if self._rest is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._rest = self.events()
        os.close(self._pipe)
        if self._child.stdin:
            self._child.stdin.close()
