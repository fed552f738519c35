"""Bringing home what the run made, before the machine is given back."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.courier import bring
from orchestrator.fetch import continues, disk_full_explained, fetch_folder, fetch_manifest
from orchestrator.fetch_lock import fetching_alone
from orchestrator.home import RunHome
from orchestrator.lifecycle import EndReason, Facts
from orchestrator.mirror import Mirror, forget_what_the_host_lost, progress_of
from orchestrator.phases.context import RunContext
from orchestrator.phases.persistence import until_down
from orchestrator.phases.storage import settle_for_good
from orchestrator.picture_run import picture_record
from orchestrator.progress import Progress
from orchestrator.remote_run import RemoteRun
from orchestrator.reporter import Meter
from providers.errors import CloudboothError
from remote_trainer import wire


def retrieve(context: RunContext, facts: Facts) -> Facts:
    """Fetches the rest of the events, the pictures, the log, and the model (or, of a run that did not finish, its
    newest checkpoint). Every file is verified; an interrupted call is continued by the next one.

    A lost connection is tried again until the user wants everything down, and so long another process (`pull`) that
    fetches is waited for. Raises any other HostError, and CloudboothError when the laptop's disk is full: the machine
    is kept then.
    """
    try:
        return until_down(context, facts, lambda: _retrieve_connected(context, facts))
    except _DownWhileWaiting:
        return facts


class _DownWhileWaiting(Exception):
    """The user wants everything down while another process holds the fetch lock."""


def _retrieve_connected(context: RunContext, facts: Facts) -> Facts:
    waiting = _Waiting(context, heed_down=True)
    remote = context.open_remote()
    try:
        status = remote.status()
        forget_what_the_host_lost(context.home.events(status.incarnation), status.events_bytes)
        mirror = Mirror(context.home.events(status.incarnation))
        try:
            _drain_events(context, remote, mirror)
        finally:
            mirror.close()
        with disk_full_explained(context.home.root, continues(context.run.name)):
            fetch_log(remote, context.home)
            newest = replace(mirror.progress, checkpoints=newest_committed(remote, status))
            if context.run.reason is EndReason.DONE:
                newest = replace(newest, checkpoints=())
            bring(context.delivery(), remote, newest, waiting)
        if context.run.reason is EndReason.DONE:
            _fetch_output(context, remote, status, waiting)
    finally:
        remote.host.close()
    settle_for_good(context)
    return replace(facts, retrieved=True)


class _Waiting:
    """What happens while another process holds the fetch lock: it is told once, and `down` ends it where heeded."""

    def __init__(self, context: RunContext, *, heed_down: bool) -> None:
        self._context, self._heed_down, self._told = context, heed_down, False

    def __call__(self) -> None:
        if self._heed_down and self._context.wish().ends_now:
            raise _DownWhileWaiting
        if not self._told:
            self._told = True
            self._context.reporter.note("another process fetches files of this run: waiting for it")


def pull_what_is_there(context: RunContext) -> None:
    """The pictures, the newest and the best checkpoint as they stand on the host now, and the model if it is done.

    For anybody, driver or not: it changes nothing on the host and leaves the event mirror to the driver, for whose
    transfers it waits.
    """
    waiting = _Waiting(context, heed_down=False)
    remote = context.open_remote()
    try:
        status = remote.status()
        mirror = context.home.events(status.incarnation)
        progress = progress_of(mirror.read_bytes() if mirror.exists() else b"")
        with disk_full_explained(context.home.root, f"`cloudbooth pull {context.run.name}` again"):
            for folder in worth_bringing(status, progress):
                there = replace(progress, checkpoints=(_committed(remote, folder),))
                bring(context.delivery(), remote, there, waiting)
            if not status.checkpoints:
                bring(context.delivery(), remote, replace(progress, checkpoints=()), waiting)
        if status.ended == "done":
            _fetch_output(context, remote, status, waiting)
    finally:
        remote.host.close()


def fetch_log(remote: RemoteRun, home: RunHome) -> None:
    """Replaces the laptop's copy of `train.log` once the new one is whole. Raises HostError when there is none yet.

    Waits for another process that fetches it.
    """
    arriving = home.trainer_log.with_suffix(".part")
    with fetching_alone(home.log_lock):
        with remote.read(wire.LOG_FILE) as chunks, arriving.open("wb") as handle:
            for chunk in chunks:
                handle.write(chunk)
        arriving.replace(home.trainer_log)


def _drain_events(context: RunContext, remote: RemoteRun, mirror: Mirror) -> None:
    with remote.follow(mirror.offset) as chunks:
        for chunk in chunks:
            context.require_driver()  # the mirror has one writer
            for envelope in mirror.feed(chunk):
                context.reporter.event(envelope, mirror.progress)


def newest_committed(remote: RemoteRun, status: wire.HostStatus) -> tuple[wire.CheckpointCommitted, ...]:
    """What stands on the host's disk counts, not what was announced: an old announcement may have been pruned."""
    return tuple(_committed(remote, newest) for newest in status.checkpoints[-1:])


def worth_bringing(status: wire.HostStatus, progress: Progress) -> list[wire.CommittedFolder]:
    """The checkpoint with the lowest evaluation loss, where it still stands, and last the newest."""
    best = wire.best_checkpoint(progress.evaluations)
    return [folder for folder in status.checkpoints[:-1] if folder.step == best] + list(status.checkpoints[-1:])


def _committed(remote: RemoteRun, folder: wire.CommittedFolder) -> wire.CheckpointCommitted:
    manifest = fetch_manifest(remote, folder.folder, folder.manifest_sha256)
    return wire.CheckpointCommitted(folder.step, folder.folder, folder.manifest_sha256, manifest.total_bytes)


def _fetch_output(context: RunContext, remote: RemoteRun, status: wire.HostStatus, waiting: _Waiting) -> None:
    if status.output is None:
        raise CloudboothError(
            "the host says `done` but its output has no valid manifest",
            f"`cloudbooth logs {context.run.name} --trainer` shows what the trainer said",
        )
    output = status.output
    manifest = fetch_manifest(remote, output.folder, output.manifest_sha256)
    what = "model" if picture_record(context.run.plan_json) is None else "pictures"
    meter = Meter(context.reporter, what, manifest.total_bytes)
    with fetching_alone(context.home.fetch_lock, waiting):
        fetch_folder(remote, output.folder, manifest, context.output_folder, meter, meter.found)
    context.ledger.record_artifact(
        context.run.name, "output", output.step, context.output_folder, output.manifest_sha256
    )
    remote.saved([output.manifest_sha256])
    context.reporter.arrived(what, str(context.output_folder))
