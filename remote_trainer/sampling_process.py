"""The frame around what is made on request: environment, leash, events on stdout, chatter on stderr.

Standard library only, Python 3.9: the first half runs before there is an environment. Who asks holds stdin; when that
ends, everything here is killed, so that nothing is made for nobody.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from . import wire
from .errors import TrainingFailed
from .stage import Emit, hold_leash

BEAT_S = 5.0
"""Between two signs of life: who follows takes a longer silence for a broken connection."""


def run(verb: str, workdir: Path, request: str, out: Path, *, allow_cpu: bool) -> int:
    """Blocks until `verb`, which makes what `request` says into `out`, has ended. Returns its exit code."""
    from . import environment

    hold_leash()
    python = ""

    def prepare(emit: Emit) -> None:
        nonlocal python
        emit(wire.PhaseStarted("environment"))
        python = str(
            environment.ensure_environment(
                workdir / "envs", lambda line: emit(wire.PhaseStarted("environment", line)), allow_cpu=allow_cpu
            )
        )

    if tell(prepare) != 0:
        return 1
    call = [python, "-m", "remote_trainer", verb, "--workdir", str(workdir), "--request", request, "--out", str(out)]
    hub = workdir / "hub"
    surroundings = dict(os.environ, TOKENIZERS_PARALLELISM="false", HF_HUB_DISABLE_TELEMETRY="1", PYTHONUNBUFFERED="1")
    if hub.is_dir():  # a rented machine, which has the base already
        surroundings.setdefault("HF_HOME", str(hub))
    return subprocess.run(call, stdin=subprocess.DEVNULL, env=surroundings, check=False).returncode


def tell(work: Callable[[Emit], None]) -> int:
    """Runs `work`, whose events become lines on stdout; whatever else is printed goes to stderr. Returns the exit code.

    A failure is told as an event.
    """
    out = os.dup(1)
    os.dup2(2, 1)
    guard, over, numbers = threading.Lock(), threading.Event(), iter(range(1, 1 << 62))

    def emit(event: wire.Event) -> None:
        with guard:
            line = wire.encode_event(event, next(numbers), time.time())
            while line:
                line = line[os.write(out, line) :]

    def beat() -> None:
        began = time.monotonic()
        while not over.wait(BEAT_S):
            emit(wire.Heartbeat(time.monotonic() - began, trainer_alive=True))

    heart = threading.Thread(target=beat, name="beat", daemon=True)
    heart.start()
    try:
        work(emit)
        return 0
    except TrainingFailed as failure:
        emit(wire.Failed(failure.code, failure.message, failure.hint))
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        emit(wire.Failed("internal", f"{type(error).__name__}: {error}"))
    finally:
        over.set()
        heart.join()
        sys.stdout.flush()
        os.dup2(out, 1)
        os.close(out)
    return 1
