"""This machine as a `Host`: commands are child processes, each in a session of its own.

Its own session, so that a Ctrl-C at the terminal reaches us alone, as it would with a machine far away. One thread
moves all three streams of a child, so that none of them can fill up and block it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path

from orchestrator.host import Completed, ConnectionLost, HostError
from orchestrator.operating_system import TRAINS_HERE, kill_session, never_block, session_of_its_own
from orchestrator.output_tail import Tail

PIPE_BYTES = 256 << 10
LEASH_GRACE_S = 2.0
"""How long a command may take to end by itself once its stdin has ended."""
STDERR_TAIL_BYTES = 64 << 10


class LocalHost:
    """Implements `orchestrator.host.Host` on POSIX. Holds nothing between calls."""

    @property
    def label(self) -> str:
        return "this machine"

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0) -> Completed:
        return _exchange(argv, [stdin], timeout_s, total=True)

    def send(self, argv: Sequence[str], chunks: Iterable[bytes], *, idle_timeout_s: float = 60.0) -> Completed:
        return _exchange(argv, chunks, idle_timeout_s, total=False)

    @contextlib.contextmanager
    def receive(self, argv: Sequence[str], *, idle_timeout_s: float = 60.0) -> Iterator[Iterator[bytes]]:
        try:
            child = _start(argv)
        except OSError as error:
            raise HostError(_not_started(argv, error)) from None
        try:
            chunks = _stdout(child, argv, idle_timeout_s)
            try:
                yield chunks
            finally:
                chunks.close()
        finally:
            _let_go(child)

    def close(self) -> None:
        """Nothing to close."""


def _exchange(argv: Sequence[str], chunks: Iterable[bytes], timeout_s: float, *, total: bool) -> Completed:
    """`total`: the time is for everything, not for the pauses between signs of life."""
    try:
        child = _start(argv)
    except OSError as error:
        # What a shell answers, and therefore what the same command answers over SSH.
        return Completed(127 if isinstance(error, FileNotFoundError) else 126, b"", _not_started(argv, error).encode())
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    out: dict[int, bytearray] = {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
    stdin = child.stdin.fileno()
    parts, view = iter(chunks), memoryview(b"")
    deadline = time.monotonic() + timeout_s
    try:
        with selectors.DefaultSelector() as selector:
            for stream in out:
                selector.register(stream, selectors.EVENT_READ)
            selector.register(stdin, selectors.EVENT_WRITE)
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise _silent(argv, timeout_s)
                for key, _ in ready:
                    if key.fd == stdin:
                        view, open_ = _write(stdin, view, parts)
                        if not open_:
                            selector.unregister(stdin)
                            child.stdin.close()
                        continue
                    data = os.read(key.fd, PIPE_BYTES)
                    out[key.fd] += data
                    if not data:
                        selector.unregister(key.fd)
                if not total:
                    deadline = time.monotonic() + timeout_s
        try:
            code = child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise _silent(argv, timeout_s) from None
        stdout, stderr = out.values()
        return Completed(_shell_code(code), bytes(stdout), bytes(stderr))
    finally:
        _let_go(child, grace_s=0.0)


def _write(stdin: int, view: memoryview, parts: Iterator[bytes]) -> tuple[memoryview, bool]:
    """One write, of the next part when `view` is used up. False: stdin is to be closed."""
    while not view:
        part = next(parts, None)
        if part is None:
            return view, False
        view = memoryview(part)
    try:
        return view[os.write(stdin, view[:PIPE_BYTES]) :], True
    except BlockingIOError:
        return view, True
    except BrokenPipeError:  # the command stopped listening, which is its right
        return view, False


def _stdout(child: subprocess.Popen[bytes], argv: Sequence[str], idle_timeout_s: float) -> Generator[bytes]:
    assert child.stdout is not None
    assert child.stderr is not None
    tail = Tail(STDERR_TAIL_BYTES)
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        selector.register(child.stderr, selectors.EVENT_READ)
        deadline = time.monotonic() + idle_timeout_s
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if time.monotonic() >= deadline:
                raise _silent(argv, idle_timeout_s)
            for key, _ in ready:
                data = os.read(key.fd, PIPE_BYTES)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is child.stderr:
                    tail.add(data)
                else:
                    yield data
                    deadline = time.monotonic() + idle_timeout_s
    try:
        code = _shell_code(child.wait(max(0.0, deadline - time.monotonic())))
    except subprocess.TimeoutExpired:
        raise _silent(argv, idle_timeout_s) from None
    if code != 0:
        said = tail.text()
        raise HostError(f"`{argv[0]}` ended with exit code {code} on this machine{': ' if said else ''}{said}")


def _start(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    if not TRAINS_HERE:
        raise HostError(
            "a run on this machine needs Linux or macOS", "train elsewhere: `--provider any`, or `--host me@gpu-box`"
        )
    home = Path.home()
    child = subprocess.Popen(
        list(argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        cwd=home if home.is_dir() else "/",
        **session_of_its_own(),
    )
    assert child.stdin is not None
    never_block(child.stdin)
    return child


def _let_go(child: subprocess.Popen[bytes], grace_s: float = LEASH_GRACE_S) -> None:
    """Ends the child's streams, waits, kills what is left of its session's group, and reaps it."""
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    if child.returncode is not None:
        return  # reaped already: its group may belong to somebody else by now
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        kill_session(child)
        child.wait()


def _shell_code(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode


def _not_started(argv: Sequence[str], error: OSError) -> str:
    return f"`{argv[0]}` cannot be started on this machine: {error.strerror}"


def _silent(argv: Sequence[str], timeout_s: float) -> ConnectionLost:
    return ConnectionLost(f"`{argv[0]}` did not answer within {timeout_s:g} s on this machine")
