"""The other processes of a run on several GPUs: started, watched and ended by the first one of their machine.

They get the environment variables that `torchrun` sets, and differ from its children in three ways that a rented
machine needs: they are of the stage's own process group, so that what ends the stage ends them; a request to stop is
the first one's to heed, in the time that its checkpoint takes; and one that dies is named, not started again.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from . import wire
from .errors import TrainingFailed
from .rendezvous import Rendezvous, rendezvous_of
from .run_folder import write_atomically

POLL_S = 0.5
_NODES_HINT = "set `compute.nodes` to the number of machines that were rented together"
FALLEN_S = 5.0
"""Between an exchange that breaks and the end of the process that broke it."""


@contextmanager
def others(processes: int, run_folder: Path, died: Callable[[TrainingFailed], None], nodes: int = 1) -> Iterator[None]:
    """Runs the other processes of this machine beside this one. Does nothing when `torchrun` did it.

    processes: on all `nodes` machines together; this one becomes the first of its machine, and rank 0 where that is the
    first. died: told of the failure of one that ends badly before us; then our whole process group is killed, since the
    others would wait for it forever. Raises that failure instead where our own exchange with it has broken first, and
    TrainingFailed("environment") where the machine was not told, or otherwise, where `nodes` machines meet. On leaving,
    the others have ended or are killed.
    """
    if processes == 1 or "RANK" in os.environ:
        yield
        return
    meeting = _meeting(processes, nodes)
    here = processes // nodes
    first = meeting.node_rank * here
    shared = {
        "WORLD_SIZE": str(processes), "MASTER_ADDR": meeting.address, "MASTER_PORT": str(meeting.port or free_port()),
        "LOCAL_WORLD_SIZE": str(here),
    }  # fmt: skip
    argv = [sys.executable, "-m", "remote_trainer", "rank", "--run-folder", str(run_folder)]
    for local in range(here):
        _words_of(run_folder, first + local).unlink(missing_ok=True)
    with _deaf_to_a_stop():
        children = {
            first + local: subprocess.Popen(
                argv, stdin=subprocess.PIPE,
                env={**os.environ, **shared, "RANK": str(first + local), "LOCAL_RANK": str(local)},
            )
            for local in range(1, here)
        }  # fmt: skip
    os.environ.update(shared, RANK=str(first), LOCAL_RANK="0")
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(children, run_folder, over, died), name="ranks", daemon=True)
    watch.start()
    try:
        yield
    except TrainingFailed:
        raise
    except Exception as error:
        over.set()
        watch.join()
        give_up_at = time.monotonic() + FALLEN_S
        while (fallen := _fallen(children, run_folder)) is None and time.monotonic() < give_up_at:
            time.sleep(0.05)
        if fallen is None:
            raise
        raise fallen from error
    finally:
        over.set()
        watch.join()
        give_up_at = time.monotonic() + 10
        for child in children.values():
            try:
                child.wait(max(0.0, give_up_at - time.monotonic()))
            except subprocess.TimeoutExpired:  # it waits for us in an exchange that will not come
                child.kill()
                child.wait()


def _meeting(processes: int, nodes: int) -> Rendezvous:
    if nodes == 1:
        return Rendezvous()
    try:
        meeting = rendezvous_of(os.environ)
    except ValueError as error:
        raise TrainingFailed("environment", str(error), _NODES_HINT) from error
    if meeting.nodes != nodes or processes % nodes:
        message = f"the job wants {processes} processes on {nodes} machines, and this is one of {meeting.nodes}"
        raise TrainingFailed("environment", message, _NODES_HINT)
    return meeting


@contextmanager
def _deaf_to_a_stop() -> Iterator[None]:
    """Processes started within it never see SIGTERM, from their birth on: it comes to the whole group, and one that
    it ended while it was importing would make a failure of a stop. It reaches this process afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def tell(run_folder: Path, failure: TrainingFailed) -> None:
    """Leaves word for the first process of why this one, which is about to end, has failed."""
    words = wire.dumps(wire.Failed(failure.code, failure.message, failure.hint))
    write_atomically(_words_of(run_folder, int(os.environ["RANK"])), words)


def _watch(
    children: Mapping[int, subprocess.Popen[bytes]],
    run_folder: Path,
    over: threading.Event,
    died: Callable[[TrainingFailed], None],
) -> None:
    while not over.wait(POLL_S):
        fallen = _fallen(children, run_folder)
        if fallen is not None:
            died(fallen)
            os.killpg(os.getpgid(0), signal.SIGKILL)


def _fallen(children: Mapping[int, subprocess.Popen[bytes]], run_folder: Path) -> TrainingFailed | None:
    """Why one of them has ended badly, in its own words where it left some; None while none has."""
    for rank, child in children.items():
        if child.poll():
            try:
                told = wire.loads(wire.Failed, _words_of(run_folder, rank).read_bytes())
                return TrainingFailed(cast(wire.FailureCode, told.code), told.message, told.hint)
            except (OSError, wire.WireError):
                message = (
                    f"training process {rank} of {os.environ['WORLD_SIZE']} ended with exit code {child.returncode}"
                )
                return TrainingFailed("trainer-killed", message, "`cloudbooth logs RUN --trainer` shows why")
    return None


def _words_of(run_folder: Path, rank: int) -> Path:
    return run_folder / f"rank-{rank}.json"


def free_port() -> int:
    """Below those that systems give to outgoing connections: between now and the first process's binding it, seconds
    later, nothing takes it by chance.
    """
    for port in (*random.sample(range(20_000, 32_000), 100), 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise TrainingFailed("environment", "no port of this machine is free")
