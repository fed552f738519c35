"""Brings pictures and checkpoints home while training goes on, on a connection of its own.

A convenience with a purpose: what has arrived survives the machine. It never decides anything and may fail at any
time; whatever it did not bring, the retrieve phase fetches.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from orchestrator.fetch import fetch_files, fetch_folder, fetch_manifest
from orchestrator.home import RunHome
from orchestrator.ledger import Ledger
from orchestrator.progress import Progress
from orchestrator.remote_run import RemoteRun
from orchestrator.reporter import Meter, Reporter
from providers.errors import CloudboothError
from remote_trainer import wire

KEEP_AT_HOME = 2
"""Older checkpoints are removed from the laptop when this many newer ones have arrived."""


class Courier:
    """A thread between `start` and `stop`. `show` tells it what exists by now; it brings the newest first."""

    def __init__(
        self, run: str, home: RunHome, ledger: Ledger, reporter: Reporter, open_remote: Callable[[], RemoteRun]
    ) -> None:
        self._run, self._home, self._ledger, self._reporter = run, home, ledger, reporter
        self._open_remote = open_remote
        self._wake = threading.Condition()
        self._latest = Progress()
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="courier", daemon=True)

    def __enter__(self) -> Courier:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Lets the transfer at work finish only if it ends at once: what is half done is continued by retrieval."""
        with self._wake:
            self._ending = True
            self._wake.notify()
        self._thread.join(timeout=2)

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
            try:
                if something_to_bring(self._home, seen):
                    remote = self._open_remote()
                    try:
                        bring(self._run, self._home, self._ledger, self._reporter, remote, seen)
                    finally:
                        remote.host.close()
            except CloudboothError as error:
                self._reporter.note(f"could not fetch while training goes on: {error.message}")


def something_to_bring(home: RunHome, progress: Progress) -> bool:
    newest = progress.checkpoints[-1:]
    return bool(missing_samples(home, progress)) or any(not checkpoint_home(home, c.step).exists() for c in newest)


def missing_samples(home: RunHome, progress: Progress) -> list[wire.FileEntry]:
    return [sample.file for sample in progress.samples if not (home.root / sample.file.path).exists()]


def checkpoint_home(home: RunHome, step: int) -> Path:
    return home.root / wire.checkpoint_folder(step)


def bring(run: str, home: RunHome, ledger: Ledger, reporter: Reporter, remote: RemoteRun, progress: Progress) -> None:
    """Fetches the pictures that are not here and the newest checkpoint, verified, and records the checkpoint."""
    samples = missing_samples(home, progress)
    fetch_files(remote, ".", samples, home.root, lambda _count: None)
    for entry in samples:
        reporter.arrived("picture", str(home.root / entry.path))
    for checkpoint in progress.checkpoints[-1:]:
        target = checkpoint_home(home, checkpoint.step)
        if target.exists():
            return
        manifest = fetch_manifest(remote, checkpoint.folder, checkpoint.manifest_sha256)
        meter = Meter(reporter, target.name, manifest.total_bytes)
        fetch_folder(remote, checkpoint.folder, manifest, target, meter)
        ledger.record_artifact(run, "checkpoint", checkpoint.step, target, checkpoint.manifest_sha256)
        reporter.arrived("checkpoint", str(target))
        _remove_old_checkpoints(home)


def _remove_old_checkpoints(home: RunHome) -> None:
    folders = sorted(p for p in (home.root / wire.CHECKPOINTS_FOLDER).iterdir() if not p.name.startswith("."))
    for old in folders[:-KEEP_AT_HOME]:
        shutil.rmtree(old, ignore_errors=True)
