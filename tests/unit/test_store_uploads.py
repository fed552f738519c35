"""The supervisor's side of uploads: one uploader at a time, begun again when it dies, given up when it is of no use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.storage.api import ObjectStore
from orchestrator.storage.lending import PoolSize, lend
from remote_trainer import run_folder as folders
from remote_trainer import wire
from remote_trainer.commit import commit_folder, preparing
from remote_trainer.store_uploads import StoreUploads, UploaderProcess
from remote_trainer.upload_grant import drop_grant, hold_grant
from tests.fakes.s3_servers import S3Server

CHUNK = 5 << 20


@pytest.fixture
def run_folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "runs" / "dog"
    folder.mkdir(parents=True)
    yield folder
    drop_grant(folder)


@pytest.fixture
def uploads(run_folder: Path) -> Iterator[StoreUploads]:
    uploads = StoreUploads(run_folder, retry_s=0.0)
    yield uploads
    uploads.close()


def lend_to(run_folder: Path, store: ObjectStore, lifetime_s: float = 3600.0) -> None:
    grant = lend(store, "runs/dog", PoolSize(CHUNK, 64))
    hold_grant(run_folder, wire.dumps(replace(grant, lifetime_s=lifetime_s)))


def commit(run_folder: Path, step: int, size: int = 1000) -> wire.CommittedFolder:
    folder = run_folder / wire.checkpoint_folder(step)
    with preparing(folder) as prepared:
        (prepared / "weights").write_bytes(os.urandom(size))
        commit_folder(prepared, folder, step)
    found = folders.committed(run_folder, wire.checkpoint_folder(step))
    assert found is not None
    return found


def until(uploads: StoreUploads, claim: Callable[[], bool], within_s: float = 120.0) -> list[wire.Event]:
    """What it said until the claim came true."""
    said: list[wire.Event] = []
    deadline = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < deadline, said
        said += uploads.news()
        time.sleep(0.01)
    return said + uploads.news()


def test_a_committed_folder_is_saved_and_said_to_be(
    uploads: StoreUploads, run_folder: Path, s3_store: ObjectStore
) -> None:
    lend_to(run_folder, s3_store)
    until(uploads, lambda: uploads.active)
    checkpoint = commit(run_folder, 100)
    uploads.begin(checkpoint)
    assert uploads.busy()
    said = until(uploads, lambda: not uploads.busy())
    assert said == [wire.Uploaded(100, checkpoint.manifest_sha256)]
    assert uploads.saved() == {checkpoint.manifest_sha256}
    assert uploads.longest_s is not None


def test_without_a_loan_nothing_is_awaited(uploads: StoreUploads, run_folder: Path) -> None:
    uploads.begin(commit(run_folder, 100))
    assert (uploads.active, uploads.busy(), uploads.saved()) == (False, False, frozenset())


def test_a_loan_that_comes_later_is_used(uploads: StoreUploads, run_folder: Path, s3_store: ObjectStore) -> None:
    checkpoint = commit(run_folder, 100)
    uploads.begin(checkpoint)
    lend_to(run_folder, s3_store)
    until(uploads, lambda: checkpoint.manifest_sha256 in uploads.saved())


def test_a_killed_uploader_is_begun_again(uploads: StoreUploads, run_folder: Path, s3_store: ObjectStore) -> None:
    lend_to(run_folder, s3_store)
    until(uploads, lambda: uploads.active)
    checkpoint = commit(run_folder, 100, size=20 * CHUNK)
    uploads.begin(checkpoint)
    until(uploads, lambda: any((run_folder / "uploads").glob("*.done")))
    assert isinstance(uploads._uploader, UploaderProcess)
    os.killpg(uploads._uploader.pid, signal.SIGKILL)
    until(uploads, lambda: checkpoint.manifest_sha256 in uploads.saved())


def test_an_expired_loan_is_said_once_and_given_up_until_there_is_a_new_one(
    uploads: StoreUploads, run_folder: Path, s3_store: ObjectStore
) -> None:
    lend_to(run_folder, s3_store, lifetime_s=0.0)
    until(uploads, lambda: uploads.active)
    checkpoint = commit(run_folder, 100)
    uploads.begin(checkpoint)
    said = until(uploads, lambda: not uploads.busy())
    assert [type(event) for event in said] == [wire.Warned]
    lend_to(run_folder, s3_store)
    until(uploads, lambda: checkpoint.manifest_sha256 in uploads.saved())


def test_what_was_committed_meanwhile_follows(uploads: StoreUploads, run_folder: Path, s3_store: ObjectStore) -> None:
    lend_to(run_folder, s3_store)
    until(uploads, lambda: uploads.active)
    uploads.begin(commit(run_folder, 100, size=8 * CHUNK))
    newer = commit(run_folder, 200)
    uploads.begin(newer)
    until(uploads, lambda: newer.manifest_sha256 in uploads.saved())
    until(uploads, lambda: not uploads.busy())


def test_a_store_that_refuses_the_machine_ends_the_run_before_anything_is_built(
    run_folder: Path, s3_store: ObjectStore, s3_server: S3Server
) -> None:
    """By a URL that nobody signed; what does not answer at all is tried for a quarter of a minute first."""
    job = wire.Job("dog", "dog", "builtin:tiny", wire.TrainSpec(), (), ("lora",), allow_cpu=True)
    (run_folder / wire.JOB_FILE).write_bytes(wire.dumps(job))
    unsigned = wire.LentObject(*2 * [f"{s3_server.endpoint_url}/bucket/probe"])
    grant = replace(lend(s3_store, "runs/dog", PoolSize(CHUNK, 4)), probe=unsigned)
    hold_grant(run_folder, wire.dumps(grant))
    argv = [sys.executable, "-m", "remote_trainer", "supervise", "--run-folder", str(run_folder), "--epoch", "1"]
    subprocess.run(argv, check=True, timeout=60)
    events = folders.events_after_last_hello(run_folder)
    assert [event.name for event in events if isinstance(event, wire.PhaseStarted)] == ["storage"]
    [failed] = [event for event in events if isinstance(event, wire.Failed)]
    assert failed.code == "storage"
    assert s3_server.endpoint_url.removeprefix("http://") in failed.message
