"""What is shipped, made ready on the laptop before a run exists: prepared photos and the job.

Staging comes before the ledger knows the run: a process killed here has started nothing, and the next `launch` makes
the folder anew.
"""

from __future__ import annotations

import shutil

from orchestrator.captions_home import remember_photos
from orchestrator.dataset.originals import ship_originals
from orchestrator.dataset.prepare import prepare_photos
from orchestrator.errors import RunConflict
from orchestrator.home import RunHome
from orchestrator.plan import Plan, build_job
from orchestrator.whole_file import sync_folder, write_atomically
from remote_trainer import wire


def stage(home: RunHome, plan: Plan) -> wire.Job:
    """Writes the photos as they will be trained, and the job last, down to the disk: the ledger will count on them.
    Replaces what an earlier launch left.

    Raises UsageError when a photo changed since it was scanned, and OSError when the folder cannot be written.
    """
    shutil.rmtree(home.root, ignore_errors=True)
    home.staged.mkdir(parents=True)
    images = {}
    for each in plan.sets:
        placed = [(placement.photo, placement.bucket) for placement in each.placements]
        folder = home.staged / each.folder
        if each.mask:
            images[each.id] = prepare_photos(placed, folder, masked=True)
        else:
            images[each.id] = (ship_originals if plan.ship_originals else prepare_photos)(placed, folder)
    remember_photos(home, plan, images)
    job = build_job(plan, plan.name, images)
    _write_job(home, job)
    return job


def stage_job(home: RunHome, job: wire.Job) -> None:
    """Of a job without photos: as `stage`."""
    shutil.rmtree(home.root, ignore_errors=True)
    home.staged.mkdir(parents=True)
    _write_job(home, job)


def _write_job(home: RunHome, job: wire.Job) -> None:
    write_atomically(home.job_file, wire.dumps(job))
    sync_folder(home.root.parent)


def read_staged_job(home: RunHome) -> wire.Job:
    """Raises RunConflict for a run that has nothing to train: a fire drill that was killed, or a removed folder."""
    try:
        raw = home.job_file.read_bytes()
    except FileNotFoundError:
        name = home.root.name
        raise RunConflict(
            f"run `{name}` has nothing to train: {home.job_file} is missing",
            f"`cloudbooth down {name}` gives its machine back",
        ) from None
    return wire.loads(wire.Job, raw)


def staged_files(home: RunHome, job: wire.Job) -> list[wire.FileEntry]:
    """The pictures of the job, by their paths in the run's folder; hashes are those of the job."""
    entries = []
    for dataset in job.datasets:
        for image in dataset.images:
            path = f"{dataset.folder}/{image.file}"
            entries.append(wire.FileEntry(path, (home.staged / path).stat().st_size, image.sha256))
    return entries
