"""One authenticated SSH connection, tuned as measurements say.

Paramiko's defaults cost up to six times the throughput, and one of them loses data:
- the socket is ours, with TCP_NODELAY, which paramiko never sets;
- aes128-gcm first: twice as fast as the default aes128-ctr with its separate MAC;
- windows of 2–4 MiB: 16 MiB and more are slower, because paramiko's buffers are copied at every read;
- a rekey that meets the close of a channel loses the tail of a download (paramiko 5.1.0), so the limit is raised from
  512 MiB to 64 GiB, the bound that RFC 4344 §3.2 gives for a cipher with 128-bit blocks.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import paramiko  # type: ignore[import-untyped]

from orchestrator.host import HostUnreachable
from orchestrator.operating_system import SOCKETS_ARE_FILES, session_of_its_own
from orchestrator.ssh.config import Destination
from orchestrator.ssh.host_keys import HostKey, algorithms_for, check, expected_keys
from orchestrator.ssh.login import AGENT_TIMEOUT_S, log_in
from orchestrator.ssh.packets import Packets

WINDOW_BYTES = 4 << 20
MAX_PACKET_BYTES = 32 << 10
REKEY_BYTES = 1 << 36
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
KEEPALIVE_S = 15
DEAD_AFTER_S = 60
"""How long sent bytes may stay unacknowledged before the kernel gives the connection up."""

# Without a handler of its own, a library's warnings land on stderr: paramiko logs tracebacks of lost connections.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass
class Connection:
    """An authenticated transport and, behind a proxy, the process that carries it."""

    transport: Any
    proxy: subprocess.Popen[bytes] | None = None
    round_trip_s: float = math.inf
    """The shortest time that the other end took to answer the opening of a channel, which is one round trip and a
    little work of the server's; infinite before the first."""

    @property
    def alive(self) -> bool:
        """False once the link is known to be broken; a link that died silently may still say True."""
        return bool(self.transport.is_active())

    def open_channel(self, timeout_s: float) -> Any:
        """A session channel. Raises SSHException, EOFError or OSError when the link is broken."""
        asked_at = time.monotonic()
        channel = self.transport.open_session(
            window_size=WINDOW_BYTES, max_packet_size=MAX_PACKET_BYTES, timeout=timeout_s
        )
        self.round_trip_s = min(self.round_trip_s, time.monotonic() - asked_at)
        channel.in_buffer = self.transport.packetizer.pieces()  # before anything was asked that could be answered
        return channel

    def close(self) -> None:
        """Ends link and proxy; blocked readers and writers return. Twice is safe."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.transport.close()
        _end(self.proxy)


def connect(destination: Destination, pinned: str | None, timeout_s: float = 20.0) -> Connection:
    """Dials, checks the host key, then logs in. Blocks up to `timeout_s` for each of these.

    Raises HostUnreachable, HostKeyRejected, LoginRefused.
    """
    expected = expected_keys(destination, pinned)
    with contextlib.ExitStack() as undo:
        complaints = undo.enter_context(tempfile.TemporaryFile())
        sock, proxy = _dial(destination, timeout_s, complaints)
        undo.callback(_end, proxy)
        undo.callback(sock.close)
        # not the newer ServiceRequestingTransport: it waits for ever when the server hangs up before the login
        transport = paramiko.Transport(sock, default_window_size=WINDOW_BYTES, packetizer_class=Packets)
        undo.callback(transport.close)
        _tune(transport, [entry.key.type for entry in expected], timeout_s)
        try:
            transport.start_client(timeout=timeout_s)
            shown = transport.get_remote_server_key()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise _not_ssh(destination, error, proxy, complaints) from None
        check(HostKey(shown.get_name(), shown.asbytes()), expected, destination, pinned=pinned is not None)
        log_in(transport, destination)
        transport.set_keepalive(KEEPALIVE_S)
        undo.pop_all()
        complaints.close()
        return Connection(transport, proxy)


def _tune(transport: Any, known_types: Sequence[str], timeout_s: float) -> None:
    options = transport.get_security_options()
    options.ciphers = CIPHERS
    options.key_types = algorithms_for(known_types, options.key_types)
    options.compression = ("none",)
    transport.packetizer.REKEY_BYTES = REKEY_BYTES
    transport.banner_timeout = transport.handshake_timeout = timeout_s
    transport.auth_timeout = timeout_s + AGENT_TIMEOUT_S


def _dial(
    destination: Destination, timeout_s: float, complaints: IO[bytes]
) -> tuple[socket.socket, subprocess.Popen[bytes] | None]:
    if destination.proxy_argv is not None:
        return _dial_through(destination, destination.proxy_argv, complaints)
    where = f"{destination.host_name} port {destination.port}"
    try:
        sock = socket.create_connection((destination.host_name, destination.port), timeout=timeout_s)
    except socket.gaierror as error:
        raise HostUnreachable(
            f"the name {destination.host_name} cannot be resolved: {error.strerror}",
            f"{destination.ssh_command} true",
        ) from None
    except TimeoutError:
        raise HostUnreachable(
            f"{where} did not answer within {timeout_s:.0f} s", f"{destination.ssh_command} true"
        ) from None
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise HostUnreachable(f"{where} cannot be reached: {reason}", f"{destination.ssh_command} true") from None
    _notice_death(sock)
    return sock, None


def _notice_death(sock: socket.socket) -> None:
    """Small requests go out at once, and a peer that vanished is noticed in a minute instead of fifteen."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_S * 1000)


def _dial_through(
    destination: Destination, argv: Sequence[str], complaints: IO[bytes]
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The proxy gets a socket pair as stdin and stdout: unlike pipes, paramiko sees its end as an end."""
    if not SOCKETS_ARE_FILES:
        raise HostUnreachable(
            f"the proxy to {destination.given} cannot be used: here a process cannot have a socket as its input",
            "forward a port by hand, `ssh -L 2222:HOST:22 PROXY`, and use `--host localhost` with compute.ssh.port",
        )
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            # Its own session: a Ctrl-C at the terminal is ours to handle, not the proxy's.
            proxy = subprocess.Popen(
                argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=complaints, **session_of_its_own()
            )
        except OSError as error:
            ours.close()
            raise HostUnreachable(
                f"the proxy to {destination.given} cannot be started: `{argv[0]}`: {error.strerror}",
                "install OpenSSH's client",
            ) from None
    return ours, proxy


def _not_ssh(
    destination: Destination, error: Exception, proxy: subprocess.Popen[bytes] | None, complaints: IO[bytes]
) -> HostUnreachable:
    where = f"{destination.host_name} port {destination.port}"
    hint = f"ssh {destination.given} true" if proxy is not None else f"{destination.ssh_command} true"
    if proxy is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            proxy.wait(1.0)
        complaints.seek(0)
        said = complaints.read().decode(errors="replace").strip()
        if said:
            return HostUnreachable(f"the proxy to {where} failed: {' / '.join(said.splitlines()[-3:])}", hint)
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return HostUnreachable(f"{where} and we share no algorithm: {error}", hint)
    return HostUnreachable(f"{where} answers, but no SSH handshake came about: {error or 'it hung up'}", hint)


def _end(proxy: subprocess.Popen[bytes] | None) -> None:
    if proxy is None:
        return
    if proxy.poll() is None:
        proxy.terminate()
    try:
        proxy.wait(2.0)
    except subprocess.TimeoutExpired:
        proxy.kill()
        proxy.wait()
