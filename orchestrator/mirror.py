"""The laptop's copy of one event log. Its size is the offset to follow from: there is no second number to lose.

The mirror holds whole lines only. A laptop killed between two writes may leave a torn last line; opening cuts it off
and it is fetched again, so that nothing is lost or doubled.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.home import RunHome
from orchestrator.progress import Progress, advance
from orchestrator.understanding import understood
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

        Empty lines are the follower's sign of life, no part of the log. Raises HostError for a line of a newer version.
        """
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        for line in lines:
            if line:
                with understood("the host's event log"):
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


def forget_what_the_host_lost(file: Path, host_bytes: int) -> None:
    """Sets a mirror aside that is longer than the host's log: a disk over there forgot its end, and offsets with it.

    The copy stays beside its place under another name; the log is followed from its beginning.
    """
    if file.exists() and file.stat().st_size > host_bytes:
        file.replace(file.with_name(f"lost-{file.name}"))


class EventReader:
    """Reads a run's mirrors for those who only watch: each event once, whole lines only, over all incarnations."""

    def __init__(self, home: RunHome) -> None:
        self._home = home
        self._offsets: dict[Path, int] = {}
        self.progress = Progress()
        """The picture including everything that `fresh` has yielded."""

    def fresh(self) -> Iterator[wire.Envelope]:
        """What has come since the last call; returns at once. Raises HostError for a line of a newer version."""
        for file in self._home.event_logs():
            offset = self._offsets.get(file, 0)
            if file.stat().st_size < offset:
                offset = 0  # the log began again, see `forget_what_the_host_lost`
            with file.open("rb") as handle:
                handle.seek(offset)
                content = handle.read()
            whole = content[: content.rfind(b"\n") + 1]
            self._offsets[file] = offset + len(whole)
            for line in whole.splitlines():
                with understood(str(file)):
                    envelope = wire.decode_event(line)
                self.progress = advance(self.progress, envelope)
                yield envelope


def progress_of_run(home: RunHome) -> Progress:
    """The picture that all events up to now add up to."""
    reader = EventReader(home)
    for _ in reader.fresh():
        pass
    return reader.progress


def progress_of(content: bytes) -> Progress:
    """The picture that one log's whole lines add up to."""
    progress = Progress()
    for line in content.splitlines():
        with understood("the run's event log"):
            progress = advance(progress, wire.decode_event(line))
    return progress
