"""Brings pictures and checkpoints home while training goes on, on a connection of its own.

A convenience with a purpose: what has arrived survives the machine. It never decides anything and may fail at any
time; whatever it did not bring, the retrieve phase fetches.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.fetch import OnBytes, fetch_files, fetch_folder, fetch_manifest
from orchestrator.home import RunHome
from orchestrator.ledger import Ledger
from orchestrator.progress import Progress
from orchestrator.remote_run import RemoteRun
from orchestrator.reporter import Meter, Reporter
from providers.errors import CloudboothError
from remote_trainer import wire

KEEP_AT_HOME = 2
"""Older checkpoints are removed from the laptop when this many newer ones have arrived."""


class Courier(Protocol):
    """Entered when following begins and left when it ends; `show` tells what exists by now."""

    def __enter__(self) -> Courier: ...

    def __exit__(self, *_: object) -> None:
        """Returns when nothing of it touches a file any more: retrieval continues what is half done."""
        ...

    def show(self, progress: Progress) -> None: ...


@dataclass(frozen=True)
class Delivery:
    """What a courier needs to know and to reach."""

    run: str
    home: RunHome
    ledger: Ledger
    reporter: Reporter
    open_remote: Callable[[], RemoteRun]


class InlineCourier:
    """Brings everything at once whenever it is shown something: for one thread and a clock of its own."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def __enter__(self) -> InlineCourier:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, progress: Progress) -> None:
        deliver(self._delivery, progress)


class _Recalled(Exception):
    """The following has ended in the middle of a transfer."""


class BackgroundCourier:
    """A thread that brings the newest first, so that a long transfer never holds up the events."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._wake = threading.Condition()
        self._latest = Progress()
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="courier", daemon=True)

    def __enter__(self) -> BackgroundCourier:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._wake:
            self._ending = True
            self._wake.notify()
        self._thread.join()

    def show(self, progress: Progress) -> None:
        with self._wake:
            self._latest = progress
            self._wake.notify()

    def _work(self) -> None:
        seen = Progress()
        while True:
            with self._wake:
                while self._latest is seen and not self._ending:
                    self._wake.wait()
                if self._ending:
                    return
                seen = self._latest
            with suppress(_Recalled):
                deliver(self._delivery, seen, self._go_on_if_not_ending)

    def _go_on_if_not_ending(self, _count: int) -> None:
        if self._ending:
            raise _Recalled


def deliver(delivery: Delivery, progress: Progress, on_bytes: OnBytes = lambda _count: None) -> None:
    """Brings what is missing, on a connection of its own; a failure is told and left to the next time."""
    if not something_to_bring(delivery.home, progress):
        return
    try:
        remote = delivery.open_remote()
        try:
            bring(delivery, remote, progress, on_bytes)
        finally:
            remote.host.close()
    except (CloudboothError, OSError) as error:
        delivery.reporter.note(f"could not fetch while training goes on: {error}")


def something_to_bring(home: RunHome, progress: Progress) -> bool:
    newest = progress.checkpoints[-1:]
    return bool(missing_samples(home, progress)) or any(not checkpoint_home(home, c.step).exists() for c in newest)


def missing_samples(home: RunHome, progress: Progress) -> list[wire.FileEntry]:
    return [sample.file for sample in progress.samples if not (home.root / sample.file.path).exists()]


def checkpoint_home(home: RunHome, step: int) -> Path:
    return home.root / wire.checkpoint_folder(step)


def bring(delivery: Delivery, remote: RemoteRun, progress: Progress, on_bytes: OnBytes = lambda _count: None) -> None:
    """Fetches the pictures that are not here and the newest checkpoint, verified, and records the checkpoint."""
    home, reporter = delivery.home, delivery.reporter
    samples = missing_samples(home, progress)
    fetch_files(remote, ".", samples, home.root, on_bytes)
    for entry in samples:
        reporter.arrived("picture", str(home.root / entry.path))
    if not progress.checkpoints or checkpoint_home(home, progress.checkpoints[-1].step).exists():
        return
    newest = progress.checkpoints[-1]
    target = checkpoint_home(home, newest.step)
    manifest = fetch_manifest(remote, newest.folder, newest.manifest_sha256)
    meter = Meter(reporter, target.name, manifest.total_bytes)

    def counted(count: int) -> None:
        on_bytes(count)
        meter(count)

    fetch_folder(remote, newest.folder, manifest, target, counted)
    delivery.ledger.record_artifact(delivery.run, "checkpoint", newest.step, target, newest.manifest_sha256)
    reporter.arrived("checkpoint", str(target))
    _remove_old_checkpoints(home)


def _remove_old_checkpoints(home: RunHome) -> None:
    folders = sorted(p for p in (home.root / wire.CHECKPOINTS_FOLDER).iterdir() if not p.name.startswith("."))
    for old in folders[:-KEEP_AT_HOME]:
        shutil.rmtree(old, ignore_errors=True)
