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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from . import run_folder as folders
from . import wire
from .upload import LOCK_FILE, newest_artifact
from .upload_grant import grant_file, held_grant
from .upload_ring import in_store

RETRY_S = 30.0
TRIES = 4
"""For one folder with one grant: after that it is given up, until there is a newer folder or a newer grant."""
LOOK_EVERY_S = 2.0
"""Between looks for a newer grant."""


class StoreUploads:
    """Implements `uploads.Uploads`."""

    def __init__(self, run_folder: Path, clock: Callable[[], float] = time.monotonic, retry_s: float = RETRY_S) -> None:
        self._folder, self._clock, self._retry_s = run_folder, clock, retry_s
        self._saved = in_store(run_folder)
        self._wanted: dict[str, float] = {}
        """Manifest to the second of its `begin`, newest last, of what is not in the store."""
        self._tries = 0
        self._not_before_s = 0.0
        self._looked_at_s = 0.0
        self._grant_seen = self._grant_mark()
        self._child: Optional[subprocess.Popen[bytes]] = None
        self._pipe: Optional[int] = None
        self._line = b""
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
        return self._child is not None or self._worth_trying()

    def news(self) -> list[wire.Event]:
        """What there is to say since the last call."""
        self._move_on()
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        """Ends an uploader that is at work. Twice is safe."""
        if self._child is not None:
            _end(self._child)
            self._reap(self._child)

    def _worth_trying(self) -> bool:
        return self.active and bool(self._wanted) and self._tries < TRIES

    def _move_on(self) -> None:
        self._look_for_a_grant()
        if self._child is not None:
            self._listen()
            if self._child.poll() is not None:
                self._reap(self._child)
        if self._child is None and self._worth_trying() and self._clock() >= self._not_before_s:
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
        """Differs for every grant; None while there is none of this boot."""
        with contextlib.suppress(OSError):
            if held_grant(self._folder) is not None:
                return grant_file(self._folder).stat().st_mtime_ns
        return None

    def _start(self) -> None:
        lock = folders.acquire(self._folder / LOCK_FILE, wait_s=0)
        if lock is None:
            return  # that of an earlier supervisor is about to end
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        with lock, open(self._folder / wire.LOG_FILE, "ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "remote_trainer", "upload", "--run-folder", str(self._folder),
                 "--events-fd", str(write_end), "--lock-fd", str(lock.fileno())],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
                pass_fds=(write_end, lock.fileno()),
            )  # fmt: skip
        os.close(write_end)
        self._pipe, self._line = read_end, b""
        self._tries += 1

    def _listen(self) -> None:
        assert self._pipe is not None
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._pipe, 1 << 16):
                *lines, self._line = (self._line + chunk).split(b"\n")
                for line in lines:
                    self._heard(wire.decode_event(line).event)

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

    def _reap(self, child: subprocess.Popen[Any]) -> None:
        child.wait()
        self._listen()
        _end(child)
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
        self._child = None
        if child.returncode == 0:
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


def _end(child: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    if child.stdin:
        child.stdin.close()
