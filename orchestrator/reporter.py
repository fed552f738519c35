"""What a running driver tells whoever watches. The terminal, JSON lines and a detached log implement it."""

from __future__ import annotations

from typing import Protocol

from orchestrator.lifecycle import State
from orchestrator.progress import Progress
from remote_trainer import wire


class Reporter(Protocol):
    """Every method returns quickly and never raises; `arrived` and `transfer` may come from another thread."""

    def moved(self, state: State, why: str) -> None:
        """The run entered `state`."""
        ...

    def event(self, envelope: wire.Envelope, progress: Progress) -> None:
        """An event of the host, and the picture including it."""
        ...

    def transfer(self, what: str, done_bytes: int, total_bytes: int) -> None:
        """Bytes of one transfer so far; may go down when a damaged part is fetched again."""
        ...

    def arrived(self, what: str, path: str) -> None:
        """A file or folder is here and verified."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line: reconnecting, waiting, an interruption."""
        ...


class Silent:
    """For verbs that need a context and tell nothing."""

    def moved(self, state: State, why: str) -> None: ...

    def event(self, envelope: wire.Envelope, progress: Progress) -> None: ...

    def transfer(self, what: str, done_bytes: int, total_bytes: int) -> None: ...

    def arrived(self, what: str, path: str) -> None: ...

    def note(self, text: str) -> None: ...


class Meter:
    """Counts the bytes of one transfer and reports the sum at every change. Called with a difference."""

    def __init__(self, reporter: Reporter, what: str, total_bytes: int) -> None:
        self._reporter, self._what, self._total_bytes = reporter, what, total_bytes
        self._done_bytes = 0

    def __call__(self, change_bytes: int) -> None:
        self._done_bytes += change_bytes
        self._reporter.transfer(self._what, self._done_bytes, self._total_bytes)

    def found(self, here_bytes: int) -> None:
        """Bytes that need not travel, for an earlier attempt has moved them: they leave the total."""
        self._total_bytes -= here_bytes
