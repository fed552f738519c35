"""The seam to a machine: run a command, stream into one, stream out of one.

`orchestrator.ssh.host.SshHost` and `orchestrator.this_machine.LocalHost` implement it; tests replace nothing else of
what reaches a machine. Commands are argument lists; an implementation that needs a shell quotes them itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from providers.errors import CloudboothError


class HostError(CloudboothError):
    """Something between us and the machine."""


class HostUnreachable(HostError):
    """No connection could be made; trying again later may help."""


class HostKeyRejected(HostError):
    """The host's key is unknown or has changed. Never worth a retry: a person has to decide."""


class LoginRefused(HostError):
    """The host answered and accepted none of our keys. Never worth a retry."""


class ConnectionLost(HostError):
    """The connection broke in the middle; what the command did is unknown."""


@dataclass(frozen=True)
class Completed:
    exit_code: int
    """Of the command; 128 + n when signal n killed it."""
    stdout: bytes
    stderr: bytes


class Host(Protocol):
    """A machine on which commands run as its user, in its home directory.

    Every method connects when there is no connection and may raise any HostError. Used from one thread at a time.
    """

    @property
    def label(self) -> str:
        """For people: `me@gpu-box`, `this machine`."""
        ...

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0) -> Completed:
        """Runs to completion. A nonzero exit is an answer, not an error. ConnectionLost after `timeout_s`."""
        ...

    def send(self, argv: Sequence[str], chunks: Iterable[bytes], *, idle_timeout_s: float = 60.0) -> Completed:
        """Streams `chunks` into the command's stdin, closes it and waits for the end."""
        ...

    def receive(self, argv: Sequence[str], *, idle_timeout_s: float = 60.0) -> AbstractContextManager[Iterator[bytes]]:
        """The command's stdout as it comes. Its stdin stays open until the context ends, then the command is gone.

        The iterator ends when the command does; it raises ConnectionLost when the connection breaks or nothing has
        come for `idle_timeout_s`, and HostError with the end of stderr when the command exits nonzero.
        """
        ...

    def close(self) -> None:
        """Ends the connection. Twice is safe; the next call connects again."""
        ...


@runtime_checkable
class HasTwins(Host, Protocol):
    """A host to which further connections can be made, each used from a thread of its own."""

    def twin(self) -> HasTwins:
        """The same machine over another connection, made at its first use. It is the caller's to close."""
        ...

    def round_trip_s(self) -> float:
        """The shortest time seen between a question and its answer. Connects when there is no connection."""
        ...

    def abort(self) -> None:
        """From any thread: who is blocked in a call gets ConnectionLost. The next call connects again."""
        ...
