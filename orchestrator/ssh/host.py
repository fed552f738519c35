"""A machine behind SSH, as a `Host`: each command is one exec channel, without a terminal."""

from __future__ import annotations

import contextlib
import math
import shlex
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import paramiko  # type: ignore[import-untyped]

from orchestrator.host import Completed, ConnectionLost, HostError
from orchestrator.output_tail import Tail
from orchestrator.ssh.config import resolve
from orchestrator.ssh.connection import Connection, connect
from orchestrator.ssh.packets import send_burst
from orchestrator.ssh.watchdog import Watchdog
from providers.api import SshAccess

READ_BYTES = 1 << 20
"""Asked for per read: paramiko moves the rest of its buffer at every read, so few large ones are cheaper."""
SEND_BYTES = 256 << 10
"""Handed over at once: eight packets or so."""
OPEN_TIMEOUT_S = 15.0
"""For opening a channel on a link that was made earlier: after that it counts as dead."""
STDERR_TAIL_BYTES = 64 << 10
ASKING_S = 0.05
AT_ONCE_S = 0.002
"""A round trip that nothing is gained by measuring again."""
_BROKEN = (paramiko.SSHException, EOFError, OSError)


def remote_command(argv: Sequence[str]) -> str:
    """The line for the user's login shell, whichever it is: a POSIX shell that waits and reports as shells do.

    Without the `exit` the shell would replace itself by the command, and sshd would report a death by signal in a
    message that paramiko drops, instead of as 128 + n.
    """
    return f"exec /bin/sh -c {shlex.quote(shlex.join(argv) + '; exit $?')}"


class SshHost:
    """Implements `orchestrator.host.Host` over one connection, made at the first use and again after a loss.

    `known_hosts` replaces the user's and the system's files; `config_file` replaces the user's ssh_config.

    A command that `receive` lets go sees the end of its input and a broken output. One that neither reads nor writes
    notices nothing, for without a terminal sshd sends no hangup: let such commands watch their stdin.
    """

    def __init__(
        self,
        access: SshAccess,
        known_hosts: Path | None = None,
        *,
        config_file: Path | None = None,
        connect_timeout_s: float = 20.0,
    ) -> None:
        self.access = access
        self._known_hosts = known_hosts
        self._config_file = config_file
        self._connect_timeout_s = connect_timeout_s
        self._connection: Connection | None = None

    @property
    def label(self) -> str:
        host = self.access.host.rpartition("@")[2]
        return f"{self.access.user}@{host}" if self.access.user else self.access.host

    def connect(self) -> Connection:
        """The living connection, or a new one. Raises HostUnreachable, HostKeyRejected, LoginRefused."""
        if self._connection is None or not self._connection.alive:
            self.close()
            destination = resolve(self.access, known_hosts=self._known_hosts, config_file=self._config_file)
            self._connection = connect(destination, self.access.host_key, self._connect_timeout_s)
        return self._connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def twin(self) -> SshHost:
        return SshHost(
            self.access,
            self._known_hosts,
            config_file=self._config_file,
            connect_timeout_s=self._connect_timeout_s,
        )

    def round_trip_s(self) -> float:
        """Asks again where that costs little: a busy machine is slow to answer, not far away."""
        asked_s = 0.0
        while math.isinf(found_s := self.connect().round_trip_s) or (
            found_s > AT_ONCE_S and max(found_s, asked_s) < ASKING_S
        ):
            asked_at = time.monotonic()
            self._open(OPEN_TIMEOUT_S).close()
            asked_s += time.monotonic() - asked_at
        return found_s

    def abort(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.close()

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0) -> Completed:
        return self._exchange(argv, [stdin], timeout_s, total=True)

    def send(self, argv: Sequence[str], chunks: Iterable[bytes], *, idle_timeout_s: float = 60.0) -> Completed:
        return self._exchange(argv, chunks, idle_timeout_s, total=False)

    @contextlib.contextmanager
    def receive(self, argv: Sequence[str], *, idle_timeout_s: float = 60.0) -> Iterator[Iterator[bytes]]:
        channel = self._open(idle_timeout_s)
        stderr = Tail(STDERR_TAIL_BYTES)
        try:
            with Watchdog(idle_timeout_s, self.abort) as watchdog:
                self._execute(channel, argv, watchdog)
                watchdog.disarm()
                drain = _Drain(channel.recv_stderr, stderr.add)
                chunks = self._stdout(channel, argv, watchdog, drain, stderr)
                try:
                    yield chunks
                finally:
                    watchdog.disarm()
                    chunks.close()
        finally:
            with contextlib.suppress(*_BROKEN):
                channel.close()

    # ---- how -------------------------------------------------------------------------------------------------------

    def _exchange(self, argv: Sequence[str], chunks: Iterable[bytes], timeout_s: float, *, total: bool) -> Completed:
        """`total`: the time is for everything, not for the pauses between signs of life."""
        stdout: list[bytes] = []
        stderr: list[bytes] = []
        channel = self._open(timeout_s)
        try:
            with Watchdog(timeout_s, self.abort) as watchdog:
                self._execute(channel, argv, watchdog)

                def into(parts: list[bytes]) -> Callable[[bytes], None]:
                    def add(data: bytes) -> None:
                        parts.append(data)
                        if not total:
                            watchdog.touch()

                    return add

                drains = [_Drain(channel.recv, into(stdout)), _Drain(channel.recv_stderr, into(stderr))]
                self._feed(channel, chunks, watchdog, total)
                for drain in drains:
                    drain.join()
                exit_code = self._exit_code(channel, argv, watchdog, drains)
        finally:
            with contextlib.suppress(*_BROKEN):
                channel.close()
        return Completed(exit_code, b"".join(stdout), b"".join(stderr))

    def _open(self, timeout_s: float) -> Any:
        """A channel; a connection that broke while nobody used it is replaced, since nothing has been started."""
        timeout_s = min(timeout_s, OPEN_TIMEOUT_S)
        reused = self._connection is not None
        connection = self.connect()
        try:
            return connection.open_channel(timeout_s)
        except _BROKEN as error:
            self.close()
            if not reused:
                raise ConnectionLost(*self._lost(f"{error or 'it hung up'}")) from None
        try:
            return self.connect().open_channel(timeout_s)
        except _BROKEN as error:
            self.close()
            raise ConnectionLost(*self._lost(f"{error or 'it hung up'}")) from None

    def _execute(self, channel: Any, argv: Sequence[str], watchdog: Watchdog) -> None:
        try:
            channel.exec_command(remote_command(argv))
        except _BROKEN as error:
            raise self._broken(watchdog, argv, error) from None

    def _feed(self, channel: Any, chunks: Iterable[bytes], watchdog: Watchdog, total: bool) -> None:
        """Sends all of `chunks` and the end of input. A command that stops listening is no error.

        Whatever breaks the sending shows in the exit code; what breaks the source of `chunks` is raised as it is.
        """
        parts = iter(chunks)
        while True:
            if not total:
                watchdog.disarm()  # reading a slow disk of ours is not the host's silence
            part = next(parts, None)
            if not total:
                watchdog.arm()
            if part is None:
                break
            view = memoryview(part)
            while view:
                try:
                    sent = send_burst(channel, view[:SEND_BYTES])
                except _BROKEN:
                    return
                if sent == 0:
                    return
                view = view[sent:]
                if not total:
                    watchdog.touch()
        with contextlib.suppress(*_BROKEN):
            channel.shutdown_write()

    def _stdout(
        self, channel: Any, argv: Sequence[str], watchdog: Watchdog, drain: _Drain, stderr: Tail
    ) -> Generator[bytes]:
        while True:
            watchdog.arm()
            try:
                data = channel.recv(READ_BYTES)
            except _BROKEN as error:  # reading also writes: it widens the window
                raise self._broken(watchdog, argv, error) from None
            if not data:
                break
            watchdog.disarm()
            yield data
        drain.join()
        exit_code = self._exit_code(channel, argv, watchdog, [drain])
        watchdog.disarm()
        if exit_code != 0:
            said = stderr.text()
            raise HostError(f"`{argv[0]}` ended with exit code {exit_code} on {self.label}{': ' if said else ''}{said}")

    def _exit_code(self, channel: Any, argv: Sequence[str], watchdog: Watchdog, drains: Sequence[_Drain]) -> int:
        """Blocks for the exit status. The status may overtake output: only the end of output proves it complete."""
        exit_code = int(channel.recv_exit_status())
        complete = channel.eof_received and not any(drain.broken for drain in drains)
        if exit_code == -1 or not complete or watchdog.expired:
            raise self._broken(watchdog, argv, None)
        return exit_code

    def _broken(self, watchdog: Watchdog, argv: Sequence[str], error: BaseException | None) -> ConnectionLost:
        self.close()
        if watchdog.expired:
            return ConnectionLost(*self._lost(f"`{argv[0]}` did not answer within {watchdog.timeout_s:g} s"))
        return ConnectionLost(*self._lost(f"it broke while `{argv[0]}` ran{f' ({error})' if error else ''}"))

    def _lost(self, reason: str) -> tuple[str, str]:
        port = "" if self.access.port is None else f"-p {self.access.port} "
        return f"lost the connection to {self.label}: {reason}", f"ssh {port}{self.label} true"


class _Drain(threading.Thread):
    """Reads a stream to its end beside the other one, so that a full window of either never blocks the command."""

    def __init__(self, receive: Callable[[int], bytes], add: Callable[[bytes], None]) -> None:
        super().__init__(name="ssh-drain", daemon=True)
        self.broken = False
        """The end was that of the connection, with unread output possibly lost."""
        self._receive, self._add = receive, add
        self.start()

    def run(self) -> None:
        try:
            while data := self._receive(READ_BYTES):
                self._add(data)
        except _BROKEN:
            self.broken = True
