"""The laptop's copy of one event log. Its size is the offset to follow from: there is no second number to lose.

The mirror holds whole lines only. A laptop killed between two writes may leave a torn last line; opening cuts it off
and it is fetched again, so that nothing is lost or doubled.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.progress import Progress, advance
from remote_trainer import wire


class Mirror:
    """Appends what `follow` brings. One writer at a time: the run's driver."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._handle = file.open("a+b")
        self._handle.seek(0)
        content = self._handle.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._handle.truncate(whole)
        self.offset = whole
        """Bytes of the host's log that stand here."""
        self.progress = progress_of(content[:whole])
        self._pending = b""

    def feed(self, chunk: bytes) -> Iterator[wire.Envelope]:
        """Takes bytes as they come off the stream; yields the events that became whole, each already written down.

        Empty lines are the follower's sign of life, no part of the log.
        """
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        for line in lines:
            if line:
                envelope = wire.decode_event(line)
                self._handle.write(line + b"\n")
                self._handle.flush()
                self.offset += len(line) + 1
                self.progress = advance(self.progress, envelope)
                yield envelope

    def drop_partial_line(self) -> None:
        """For a stream that broke: its next incarnation starts at `offset` again."""
        self._pending = b""

    def close(self) -> None:
        self._handle.close()


def read_events(file: Path | None, offset: int = 0) -> tuple[list[wire.Envelope], int]:
    """Whole lines from byte `offset` on, and the offset behind them. For those who only watch."""
    if file is None or not file.exists():
        return [], offset
    with file.open("rb") as handle:
        handle.seek(offset)
        fresh = handle.read()
    whole = fresh[: fresh.rfind(b"\n") + 1]
    return [wire.decode_event(line) for line in whole.splitlines()], offset + len(whole)


def progress_of(content: bytes) -> Progress:
    """The picture that a log's whole lines add up to."""
    progress = Progress()
    for line in content.splitlines():
        progress = advance(progress, wire.decode_event(line))
    return progress
