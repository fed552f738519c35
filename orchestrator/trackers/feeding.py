"""Feeding a tracker from the copies of a run's events, once or for as long as the run lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from orchestrator.curves import points
from orchestrator.errors import RunConflict
from orchestrator.home import RunHome
from orchestrator.mirror import EventReader
from orchestrator.operating_system import take_lock
from orchestrator.spec import RunSpec
from orchestrator.trackers.api import Target, TrackedRun, Tracker
from orchestrator.trackers.cursor import Cursor, read_cursor, write_cursor


class Feeder:
    """Gives a tracker what has come since the last time, in whatever process that was."""

    def __init__(self, home: RunHome, target: Target, tracker: Tracker) -> None:
        self._home, self._tracker = home, tracker
        self._file = home.root / f"logged-{target.stem}.json"
        self._cursor = read_cursor(self._file)
        self._reader = EventReader(home)

    def feed(self) -> int:
        """Returns how many points and pictures went over. A picture goes when its file has come home."""
        fresh, cursor = self._cursor.new(points(self._reader.fresh()))
        if fresh:
            self._remember(cursor)
            for point in fresh:
                self._tracker.log(point)
        return len(fresh) + self._feed_pictures()

    def _feed_pictures(self) -> int:
        count, given = 0, set(self._cursor.pictures)
        for sample in self._reader.progress.samples:
            file = self._home.root / sample.file.path
            if sample.file.path in given or not file.exists():
                continue
            given.add(sample.file.path)
            self._remember(self._cursor.with_picture(sample.file.path))
            self._tracker.show(sample.step, f"validation/{Path(sample.file.path).stem}", file, sample.prompt)
            count += 1
        return count

    def _remember(self, cursor: Cursor) -> None:
        self._cursor = cursor
        write_cursor(self._file, cursor)


@contextmanager
def alone(home: RunHome, target: Target) -> Iterator[None]:
    """Held by the one process that logs the run there. Raises RunConflict while another does."""
    home.root.mkdir(parents=True, exist_ok=True)  # somebody may have tidied up
    file = home.root / f".logged-{target.stem}.lock"
    with file.open("a+") as handle:
        if not take_lock(handle):
            raise RunConflict(
                f"another process logs run `{home.root.name}` to {target} already",
                f"`cloudbooth logs {home.root.name}`",
            )
        yield


def tracked(home: RunHome, identity: str, spec: RunSpec) -> TrackedRun:
    """`identity`: of this run alone. Prompts go along as settings of the training, photos and paths do not."""
    base = spec.model.base.partition("?")[0] if "://" in spec.model.base else spec.model.base
    base = Path(base).name if base.startswith("/") else base
    settings = {"base": base, "provider": spec.compute.provider, **asdict(spec.train)}
    return TrackedRun(identity, spec.name, home.root, settings)
