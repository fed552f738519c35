"""A reporter that keeps what it is told."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from orchestrator.lifecycle import State
from orchestrator.progress import Progress
from remote_trainer import wire


@dataclass
class Told:
    notes: list[str] = field(default_factory=list)
    arrivals: list[str] = field(default_factory=list)
    transfers: list[tuple[str, int, int]] = field(default_factory=list)
    """What, bytes so far, bytes in all."""
    noted: threading.Event = field(default_factory=threading.Event)
    """Set with the first note."""

    def moved(self, state: State, why: str) -> None: ...

    def event(self, envelope: wire.Envelope, progress: Progress) -> None: ...

    def transfer(self, what: str, done_bytes: int, total_bytes: int) -> None:
        self.transfers.append((what, done_bytes, total_bytes))

    def arrived(self, what: str, path: str) -> None:
        self.arrivals.append(what)

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.noted.set()
