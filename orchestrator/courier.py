"""Brings pictures and checkpoints home while training goes on, on a connection of its own.

A convenience with a purpose: what has arrived survives the machine. It never decides anything and may fail at any
time; whatever it did not bring, the retrieve phase fetches.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.checksum import sha256_of
from orchestrator.fetch import fetch_files, fetch_folder, fetch_manifest, holds, partial_folder
from orchestrator.fetch_lock import fetching_alone
from orchestrator.home import RunHome
from orchestrator.ledger import ArtifactRecord, Ledger
from orchestrator.progress import Progress
from orchestrator.remote_run import OnBytes, RemoteRun
from orchestrator.reporter import Meter, Reporter
from providers.errors import CloudboothError
from remote_trainer import wire

FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 60.0
"""After a failure the next attempt waits, twice as long each time: every one is a login at the host."""
KEEP_AT_HOME = 2
"""Older checkpoints, but for the best, are removed from the laptop when this many newer ones have arrived."""


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

    def __init__(self, delivery: Delivery, first_pause_s: float = FIRST_PAUSE_S) -> None:
        self._delivery = delivery
        self._first_pause_s = first_pause_s
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
        pause_s = self._first_pause_s
        while True:
            with self._wake:
                while self._latest is seen and not self._ending:
                    self._wake.wait()
                if self._ending:
                    return
                seen = self._latest
            with suppress(_Recalled):
                if deliver(self._delivery, seen, self._go_on_if_not_ending):
                    pause_s = self._first_pause_s
                    continue
                with self._wake:
                    self._wake.wait_for(lambda: self._ending, pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
                seen = Progress()  # the same again, even if nothing new has been shown

    def _go_on_if_not_ending(self, _count: int) -> None:
        if self._ending:
            raise _Recalled


def deliver(delivery: Delivery, progress: Progress, on_bytes: OnBytes = lambda _count: None) -> bool:
    """Brings what is missing, on a connection of its own. False: it failed, which is told and left to the next time."""
    if not something_to_bring(delivery, progress):
        return True
    try:
        remote = delivery.open_remote()
        try:
            bring(delivery, remote, progress, lambda: on_bytes(0), on_bytes)
        finally:
            remote.host.close()
    except (CloudboothError, OSError) as error:
        delivery.reporter.note(f"could not fetch while training goes on: {error}")
        return False
    return True


def something_to_bring(delivery: Delivery, progress: Progress) -> bool:
    return bool(missing_samples(delivery.home, progress)) or _checkpoint_to_bring(delivery, progress) is not None


def _checkpoint_to_bring(delivery: Delivery, progress: Progress) -> wire.CheckpointCommitted | None:
    """The newest, unless it is here and on record: a process killed in between has brought it for nobody."""
    for newest in progress.checkpoints[-1:]:
        here = checkpoint_home(delivery.home, newest.step)
        if not here.exists() or (_names(here, newest) and not _on_record(delivery, newest)):
            return newest
    return None


def _names(folder: Path, checkpoint: wire.CheckpointCommitted) -> bool:
    """Whether the folder is of this very checkpoint and not of an earlier machine's at the same step."""
    manifest = folder / wire.MANIFEST_NAME
    return manifest.exists() and sha256_of(manifest) == checkpoint.manifest_sha256


def _on_record(delivery: Delivery, checkpoint: wire.CheckpointCommitted) -> bool:
    recorded = delivery.ledger.artifacts(delivery.run)
    return any(a.kind == "checkpoint" and a.manifest_sha256 == checkpoint.manifest_sha256 for a in recorded)


def home_already(status: wire.HostStatus, artifacts: Sequence[ArtifactRecord]) -> list[str]:
    """Of what a rented machine keeps its disk for, the manifests that are on record as home. Pure.

    Said at every contact: the call that said so when they arrived may have been lost, and a machine that was never
    told stops and keeps a disk that nobody needs.
    """
    recorded = {artifact.manifest_sha256 for artifact in artifacts}
    kept = [*status.checkpoints[-1:], *([] if status.output is None else [status.output])]
    keeps_its_disk = status.guard is not None and status.guard.on_lapse == "stop"
    return [folder.manifest_sha256 for folder in kept if keeps_its_disk and folder.manifest_sha256 in recorded]


def missing_samples(home: RunHome, progress: Progress) -> list[wire.FileEntry]:
    """A picture that was made again, after a restart, counts once, as it is now.

    Where they lie is the host's word: a name that leads out of the folder of pictures is no picture, and not fetched.
    """
    newest = {sample.file.path: sample.file for sample in progress.samples if _is_picture(sample.file)}
    return [entry for entry in newest.values() if not (home.root / entry.path).exists()]


def _is_picture(entry: wire.FileEntry) -> bool:
    return entry.stays_inside and entry.path.startswith(f"{wire.VALIDATION_FOLDER}/")


def checkpoint_home(home: RunHome, step: int) -> Path:
    return home.root / wire.checkpoint_folder(step)


def bring(
    delivery: Delivery,
    remote: RemoteRun,
    progress: Progress,
    while_waiting: Callable[[], None] = lambda: None,
    on_bytes: OnBytes = lambda _count: None,
) -> None:
    """Fetches the pictures that are not here and the newest checkpoint, verified, and records the checkpoint.

    Waits for another process that fetches files of the run, as `fetching_alone` does.
    """
    with fetching_alone(delivery.home.fetch_lock, while_waiting):
        _bring_alone(delivery, remote, progress, on_bytes)


def _bring_alone(delivery: Delivery, remote: RemoteRun, progress: Progress, on_bytes: OnBytes) -> None:
    home, reporter = delivery.home, delivery.reporter
    samples = missing_samples(home, progress)
    fetch_files(remote, ".", samples, home.root, on_bytes)
    for entry in samples:
        reporter.arrived("picture", str(home.root / entry.path))
    newest = _checkpoint_to_bring(delivery, progress)
    if newest is None:
        return
    target = checkpoint_home(home, newest.step)
    manifest = fetch_manifest(remote, newest.folder, newest.manifest_sha256)
    if target.exists() and not holds(target, manifest):
        shutil.rmtree(target)  # a power cut took its files, and no record counts on it
    _remove_abandoned_parts(target)
    meter = Meter(reporter, target.name, manifest.total_bytes)

    def counted(count: int) -> None:
        on_bytes(count)
        meter(count)

    fetch_folder(remote, newest.folder, manifest, target, counted, meter.found)
    delivery.ledger.record_artifact(delivery.run, "checkpoint", newest.step, target, newest.manifest_sha256)
    remote.saved([newest.manifest_sha256])
    reporter.arrived("checkpoint", str(target))
    _remove_old_checkpoints(home)


def _remove_abandoned_parts(target: Path) -> None:
    """Of checkpoints that a newer one has overtaken: nobody will go on with them, and each is as large as a whole."""
    for part in target.parent.glob(".*.part"):
        if part != partial_folder(target):
            shutil.rmtree(part, ignore_errors=True)


def _remove_old_checkpoints(home: RunHome) -> None:
    folders = sorted(p for p in (home.root / wire.CHECKPOINTS_FOLDER).iterdir() if not p.name.startswith("."))
    best = best_told_by(folders[-1])
    for old in folders[:-KEEP_AT_HOME]:
        if old != checkpoint_home(home, best):
            shutil.rmtree(old, ignore_errors=True)


def best_told_by(checkpoint: Path) -> int:
    """The step with the lowest evaluation loss until then; 0 when the folder does not say."""
    with suppress(OSError):
        return wire.best_checkpoint_in((checkpoint / wire.STATE_FILE).read_bytes())
    return 0
