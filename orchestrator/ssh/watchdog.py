"""Ends what paramiko would wait for without end.

Several of its waits take no timeout (the reply to an exec request, a socket whose peer no longer reads). The watchdog
closes the connection from outside, and every blocked call returns with an error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType


class Watchdog:
    """Calls `on_expiry` once, from its own thread, when it has been armed for `timeout_s` without a `touch`.

    A context manager: leaving it ends the thread. `expired` tells afterwards why things broke.
    """

    def __init__(self, timeout_s: float, on_expiry: Callable[[], None]) -> None:
        self.timeout_s = timeout_s
        self.expired = False
        self._on_expiry = on_expiry
        self._deadline: float | None = time.monotonic() + timeout_s
        self._ended = False
        self._idle = False
        """The thread waits without a time: nothing but a notice wakes it."""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._watch, name="ssh-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def touch(self) -> None:
        """Something moved: the time starts again. No effect while disarmed."""
        with self._changed:
            if self._deadline is not None:
                self._deadline = time.monotonic() + self.timeout_s

    def disarm(self) -> None:
        """Waiting for our own side: no time runs until `arm`."""
        with self._changed:
            self._deadline = None

    def arm(self) -> None:
        with self._changed:
            self._deadline = time.monotonic() + self.timeout_s
            if self._idle:  # otherwise it looks again at an earlier deadline, and finds this one
                self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._ended:
                if self._deadline is None:
                    self._idle = True
                    self._changed.wait()
                    self._idle = False
                    continue
                left_s = self._deadline - time.monotonic()
                if left_s <= 0:
                    self.expired = True
                    break
                self._changed.wait(left_s)
        if self.expired:
            self._on_expiry()
