"""The frame around a child of the supervisor: its lock, its leash, its event pipe, its last word.

Standard library only: the `prepare` stage runs before there is an environment.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable

from . import wire
from .errors import TrainingFailed
from .oversight import DISK_FULL
from .run_folder import is_disk_full

Emit = Callable[[wire.Event], None]
ShouldStop = Callable[[], bool]


def run(events_fd: int, lock_fd: int, work: Callable[[Emit, ShouldStop], None], *, ends_itself: bool) -> int:
    """Runs `work` as the one stage of its folder, whose lock is `lock_fd`, and turns its failure into a `failed` event.

    Returns the exit code. Ends the whole process group when the supervisor goes away. With `ends_itself` SIGTERM only
    makes the second argument of `work` true; otherwise it kills, as is right for work that leaves nothing to save.
    """
    for inherited in (events_fd, lock_fd):
        os.set_inheritable(inherited, False)
    hold_leash()
    stop = threading.Event()
    if ends_itself:
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    show_stacks_when_asked()
    emit = _emitter(events_fd)
    try:
        work(emit, stop.is_set)
    except TrainingFailed as failure:
        emit(wire.Failed(failure.code, failure.message, failure.hint))
        return 1
    except Exception as error:
        if isinstance(error, OSError) and is_disk_full(error):
            emit(DISK_FULL)
            return 1
        traceback.print_exc()
        emit(wire.Failed("internal", f"{type(error).__name__}: {error}", "`cloudbooth logs RUN --trainer` shows more"))
        return 1
    return 0


def _emitter(events_fd: int) -> Emit:
    guard = threading.Lock()

    def emit(event: wire.Event) -> None:
        """Sequence number and time are the supervisor's to give."""
        line = wire.encode_event(event, 0, time.time())
        with guard:
            while line:
                line = line[os.write(events_fd, line) :]

    return emit


def show_stacks_when_asked() -> None:
    """The supervisor asks every process of a stalled stage by SIGUSR1, which would end one that did not expect it."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def hold_leash() -> None:
    """Watches stdin, whose other end only the supervisor (or who else asks) holds, and kills the process group at its
    end.
    """

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, name="leash", daemon=True).start()
