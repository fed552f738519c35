"""What of a run stands in the store so that it can go on elsewhere: spec, plan, job and prepared photos. No secret.

The photos are those that travel to the machine anyway: upright, cut to size, without their metadata.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from orchestrator.checksum import sha256_of
from orchestrator.home import RunHome
from orchestrator.staging import read_staged_job, staged_files
from orchestrator.storage.api import NoSuchObject, StorageError
from orchestrator.storage.run_store import RunStore
from orchestrator.understanding import understood
from orchestrator.whole_file import sync_folder, write_atomically
from remote_trainer import wire

RECORD_NAME = "run.json"
THREADS = 8


@dataclass(frozen=True)
class RunInStore:
    """`run.json`."""

    name: str
    provider: str
    spec_json: str
    plan_json: str
    job: wire.Job
    protocol: int = wire.PROTOCOL


def deposit_run(run: RunStore, home: RunHome, name: str, provider: str, spec_json: str, plan_json: str) -> None:
    """Puts photos and record into the store, the record last. Twice is safe, and costs one question."""
    key = f"{run.prefix}/{RECORD_NAME}"
    job = read_staged_job(home)
    content = wire.dumps(RunInStore(name, provider, spec_json, plan_json, job))
    try:
        if run.store.get(key) == content:
            return
    except NoSuchObject:
        pass
    paths = [f"{home.staged.name}/{entry.path}" for entry in staged_files(home, job)]
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(lambda path: run.store.put_file(f"{run.prefix}/{path}", home.root / path), paths):
            pass
    run.store.put(key, content)


def read_run(run: RunStore) -> RunInStore:
    """Raises StorageError when the store has no such run."""
    try:
        raw = run.store.get(f"{run.prefix}/{RECORD_NAME}")
    except NoSuchObject:
        raise StorageError(f"there is no run {run.name} in {run.store.url}", "check the address") from None
    with understood(f"{RECORD_NAME} in {run.url}"):
        return wire.loads(RunInStore, raw)


def withdraw_photos(run: RunStore, record: RunInStore, home: RunHome) -> None:
    """Makes the run's folder on this laptop as staging leaves it: the photos, verified, and the job last."""
    home.staged.mkdir(parents=True, exist_ok=True)
    for dataset in record.job.datasets:
        for image in dataset.images:
            path = f"{dataset.folder}/{image.file}"
            content = run.store.get(f"{run.prefix}/{home.staged.name}/{path}")
            target = _inside(home.staged, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, content)
    for entry in staged_files(home, record.job):
        if sha256_of(home.staged / entry.path) != entry.sha256:
            raise StorageError(f"{entry.path} of {run.name} is damaged in {run.store.url}", "launch from the photos")
    write_atomically(home.job_file, wire.dumps(record.job))
    sync_folder(home.root)


def _inside(root: Path, name: str) -> Path:
    """Raises StorageError for a name that would leave `root`."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "" in parts:
        raise StorageError(f"the run's record names a file outside its folder: {name!r}", "do not trust this store")
    return root / name
