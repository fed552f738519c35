"""The uploader of a machine, against a real S3 server and against one that misbehaves."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.storage.api import ObjectStore
from orchestrator.storage.lending import PoolSize, index_name, lend
from remote_trainer import upload, wire
from remote_trainer.commit import commit_folder, preparing
from remote_trainer.errors import TrainingFailed
from remote_trainer.lent_object import Content, LentObjects, Refused, UploadFailed, signature
from remote_trainer.upload_grant import drop_grant, grant_file, held_grant, hold_grant
from remote_trainer.upload_ring import in_store
from tests.fakes.s3_servers import SECRET_KEY, S3Server

CHUNK = 5 << 20


@pytest.fixture
def store(s3_store: ObjectStore) -> ObjectStore:
    return s3_store


@pytest.fixture
def run_folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "runs" / "dog"
    folder.mkdir(parents=True)
    yield folder
    drop_grant(folder)


def give(run_folder: Path, grant: wire.UploadGrant) -> None:
    hold_grant(run_folder, wire.dumps(grant))


def make_checkpoint(run_folder: Path, step: int, size: int = 1000) -> wire.Manifest:
    folder = run_folder / wire.checkpoint_folder(step)
    with preparing(folder) as prepared:
        (prepared / "weights").write_bytes(os.urandom(size))
        (prepared / "step.json").write_text(str(step))
        (prepared / "empty").write_bytes(b"")
        return commit_folder(prepared, folder, step)


def bring(run_folder: Path, connect: upload.Connect = LentObjects) -> tuple[bool, list[wire.Event]]:
    said: list[wire.Event] = []
    return upload.bring_up_to_date(run_folder, said.append, connect), said


def read_back(store: ObjectStore, grant: wire.UploadGrant, number: int = 0) -> dict[str, bytes]:
    """What the index and its chunks say, as files."""
    root = f"runs/dog/incoming/{grant.id}"
    index = wire.loads(wire.UploadIndex, store.get(f"{root}/{index_name(number)}"))
    manifest = index.read_manifest()
    files = {}
    for entry, chunks in zip(manifest.files, index.files, strict=True):
        parts = [store.get(f"{root}/chunk-{chunk.number:05d}") for chunk in chunks]
        assert [hashlib.sha256(part).hexdigest() for part in parts] == [chunk.sha256 for chunk in chunks]
        files[entry.path] = b"".join(parts)
        assert hashlib.sha256(files[entry.path]).hexdigest() == entry.sha256
    return files


def test_a_checkpoint_arrives_whole_and_is_announced(store: ObjectStore, run_folder: Path) -> None:
    grant = lend(store, "runs/dog", PoolSize(CHUNK, 16))
    give(run_folder, grant)
    manifest = make_checkpoint(run_folder, 100, size=2 * CHUNK + 7)
    assert bring(run_folder) == (True, [wire.Uploaded(100, manifest.sha256)])
    files = read_back(store, grant)
    assert files["step.json"] == b"100"
    assert len(files["weights"]) == 2 * CHUNK + 7
    assert in_store(run_folder) == {manifest.sha256}


def test_what_the_store_has_is_not_sent_again(store: ObjectStore, run_folder: Path) -> None:
    give(run_folder, lend(store, "runs/dog", PoolSize(CHUNK, 16)))
    make_checkpoint(run_folder, 100)
    bring(run_folder)
    assert bring(run_folder) == (True, [])


def test_the_output_goes_before_checkpoints(store: ObjectStore, run_folder: Path) -> None:
    give(run_folder, lend(store, "runs/dog", PoolSize(CHUNK, 16)))
    make_checkpoint(run_folder, 100)
    with preparing(run_folder / wire.OUTPUT_FOLDER) as prepared:
        (prepared / "model.safetensors").write_bytes(b"model")
        model = commit_folder(prepared, run_folder / wire.OUTPUT_FOLDER, 120)
    assert bring(run_folder) == (True, [wire.Uploaded(120, model.sha256)])


def test_without_a_grant_nothing_is_sent_and_nothing_is_said(run_folder: Path) -> None:
    make_checkpoint(run_folder, 100)
    assert bring(run_folder) == (False, [])


def test_twice_the_estimated_size_still_arrives_beside_the_one_before(store: ObjectStore, run_folder: Path) -> None:
    estimated_chunks = 2
    grant = lend(store, "runs/dog", PoolSize(CHUNK, 4 * estimated_chunks + 8))
    give(run_folder, grant)
    for step in (100, 200):
        make_checkpoint(run_folder, step, size=2 * estimated_chunks * CHUNK)
        assert bring(run_folder)[0]
    assert len(read_back(store, grant, 1)["weights"]) == len(read_back(store, grant, 0)["weights"]) == 4 * CHUNK


def test_one_that_cannot_fit_stays_here_is_said_once_and_leaves_the_newest_alone(
    store: ObjectStore, run_folder: Path
) -> None:
    grant = lend(store, "runs/dog", PoolSize(CHUNK, 5))
    give(run_folder, grant)
    make_checkpoint(run_folder, 100)
    bring(run_folder)
    make_checkpoint(run_folder, 200, size=6 * CHUNK)
    brought, said = bring(run_folder)
    assert not brought
    assert [type(event) for event in said] == [wire.Warned]
    assert "stays on the machine" in said[0].message  # type: ignore[union-attr]
    assert bring(run_folder) == (False, [])
    assert read_back(store, grant)["step.json"] == b"100"


def test_an_older_index_is_retired_before_its_chunks_are_used_again(store: ObjectStore, run_folder: Path) -> None:
    grant = lend(store, "runs/dog", PoolSize(CHUNK, 5))
    give(run_folder, grant)
    for step in (100, 200):
        make_checkpoint(run_folder, step)
        bring(run_folder)
    written: list[tuple[str, bytes]] = []

    class Watching(LentObjects):
        def put(self, url: str, content: Content) -> None:
            written.append((url.partition("?")[0].rpartition("/")[2], b"".join(content.pieces())))
            super().put(url, content)

    make_checkpoint(run_folder, 300)
    assert bring(run_folder, Watching)[0]
    assert written[0] == (index_name(0), wire.RETIRED)
    assert written[-1][0] == index_name(0)
    assert read_back(store, grant, 0)["step.json"] == b"300"
    assert read_back(store, grant, 1)["step.json"] == b"200"


def test_an_expired_grant_is_warned_about_and_everything_stays(store: ObjectStore, run_folder: Path) -> None:
    give(run_folder, replace(lend(store, "runs/dog", PoolSize(CHUNK, 16)), lifetime_s=-1.0))
    make_checkpoint(run_folder, 100)
    brought, said = bring(run_folder)
    assert not brought
    assert "expired" in said[0].message  # type: ignore[union-attr]
    assert upload.folders.committed(run_folder, wire.checkpoint_folder(100)) is not None


def test_a_refused_url_is_not_tried_again_and_never_named(store: ObjectStore, run_folder: Path) -> None:
    grant = lend(store, "runs/dog", PoolSize(CHUNK, 16))
    give(run_folder, replace(grant, chunks=tuple(url.replace("Signature=", "Signature=0") for url in grant.chunks)))
    make_checkpoint(run_folder, 100)
    begun = time.monotonic()
    brought, said = bring(run_folder)
    assert not brought
    assert time.monotonic() - begun < 5
    assert "403" in said[0].message  # type: ignore[union-attr]
    assert "X-Amz" not in repr(said)


def test_a_later_grant_takes_what_an_expired_one_could_not(store: ObjectStore, run_folder: Path) -> None:
    make_checkpoint(run_folder, 100)
    give(run_folder, replace(lend(store, "runs/dog", PoolSize(CHUNK, 16)), lifetime_s=-1.0))
    assert not bring(run_folder)[0]
    give(run_folder, lend(store, "runs/dog", PoolSize(CHUNK, 16)))
    assert bring(run_folder)[0]


def test_a_file_damaged_on_disk_is_never_called_uploaded(store: ObjectStore, run_folder: Path) -> None:
    grant = lend(store, "runs/dog", PoolSize(CHUNK, 16))
    give(run_folder, grant)
    make_checkpoint(run_folder, 100)
    (run_folder / wire.checkpoint_folder(100) / "weights").write_bytes(bytes(1000))
    brought, said = bring(run_folder)
    assert not brought
    assert "damaged" in said[0].message  # type: ignore[union-attr]
    assert store.head(f"runs/dog/incoming/{grant.id}/{index_name(0)}") is None


def test_killed_at_any_moment_it_goes_on_without_sending_confirmed_chunks_again(
    store: ObjectStore, run_folder: Path
) -> None:
    grant = lend(store, "runs/dog", PoolSize(CHUNK, 32))
    give(run_folder, grant)
    make_checkpoint(run_folder, 100, size=15 * CHUNK)
    confirmed: set[str] = set()
    for _ in range(3):
        child = _start_uploader(run_folder)
        deadline = time.monotonic() + 120
        while len(_journal(run_folder)) <= len(confirmed) and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        confirmed |= _journal(run_folder)
    sent: list[str] = []

    class Counting(LentObjects):
        def put(self, url: str, content: Content) -> None:
            sent.append(url.partition("?")[0].rpartition("/")[2])
            super().put(url, content)

    assert bring(run_folder, Counting)[0]
    assert not {f"chunk-{int(line.split()[0]):05d}" for line in confirmed} & set(sent)
    assert len(read_back(store, grant)["weights"]) == 15 * CHUNK


def test_the_uploader_ends_with_its_supervisor(store: ObjectStore, run_folder: Path) -> None:
    give(run_folder, lend(store, "runs/dog", PoolSize(CHUNK, 64)))
    make_checkpoint(run_folder, 100, size=16 * CHUNK)
    child = _start_uploader(run_folder)
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(timeout=120) != 0


def test_the_store_is_tried_before_training(store: ObjectStore, run_folder: Path) -> None:
    upload.require_reachable_store(run_folder)  # nothing lent, nothing to try
    give(run_folder, lend(store, "runs/dog", PoolSize(CHUNK, 4)))
    upload.require_reachable_store(run_folder)


def test_an_address_that_only_the_laptop_reaches_fails_with_its_own_code(store: ObjectStore, run_folder: Path) -> None:
    grant = lend(store, "runs/dog", PoolSize(CHUNK, 4))
    give(run_folder, replace(grant, probe=wire.LentObject("http://127.0.0.1:9/x?secret=1", "http://127.0.0.1:9/x")))
    with pytest.raises(TrainingFailed) as failed:
        upload.require_reachable_store(run_folder, attempts=2)
    assert (failed.value.code, "secret" in failed.value.message) == ("storage", False)
    assert "127.0.0.1:9" in failed.value.message
    assert "endpoint_url" in failed.value.hint


def test_a_store_that_says_no_to_the_machine_is_no_question_of_its_address(
    store: ObjectStore, run_folder: Path
) -> None:
    grant = lend(store, "runs/dog", PoolSize(CHUNK, 4))
    give(
        run_folder, replace(grant, probe=replace(grant.probe, put=grant.probe.put.replace("Signature=", "Signature=0")))
    )
    with pytest.raises(TrainingFailed) as failed:
        upload.require_reachable_store(run_folder)
    assert (failed.value.code, "endpoint_url" in failed.value.hint) == ("storage", False)
    assert "the keys must be allowed" in failed.value.hint


def test_what_was_lent_lies_in_memory_for_its_user_alone(store: ObjectStore, run_folder: Path) -> None:
    give(run_folder, lend(store, "runs/dog", PoolSize(CHUNK, 4)))
    path = grant_file(run_folder)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    assert run_folder not in path.parents
    assert SECRET_KEY.encode() not in path.read_bytes()
    drop_grant(run_folder)
    assert held_grant(run_folder) is None


def test_nothing_lent_shows_in_a_repr(store: ObjectStore) -> None:
    grant = lend(store, "runs/dog", PoolSize(CHUNK, 4))
    assert "Signature" not in repr(grant)
    with_keys = lend(store, "runs/dog", PoolSize(CHUNK, 4), hand_over_keys=True)
    assert SECRET_KEY not in repr(with_keys)


def test_with_keys_of_the_store_requests_are_signed_on_the_machine(s3_server: S3Server, store: ObjectStore) -> None:
    server = s3_server
    grant = lend(store, "runs/my dog", PoolSize(CHUNK, 4), hand_over_keys=True)
    assert grant.keys is not None
    assert server.endpoint_url in grant.chunks[0]
    objects, keys, url = LentObjects(grant.keys), grant.keys, grant.indexes[0].put
    objects.put(url, Content.of(b"content"))
    assert objects.get(url) == b"content" == store.get(f"runs/my dog/incoming/{grant.id}/{index_name(0)}")
    with pytest.raises(Refused):
        LentObjects(replace(keys, secret_key="wrong")).get(url)


def test_with_keys_of_the_store_a_checkpoint_arrives_as_with_urls(store: ObjectStore, run_folder: Path) -> None:
    grant = lend(store, "runs/dog", PoolSize(CHUNK, 16), hand_over_keys=True)
    give(run_folder, grant)
    make_checkpoint(run_folder, 100, size=CHUNK + 1)
    assert bring(run_folder)[0]
    assert len(read_back(store, grant)["weights"]) == CHUNK + 1


def test_a_signature_made_there_is_the_one_the_store_expects() -> None:
    """Against botocore's own, for an address with everything that has to be escaped."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url = "https://examplebucket.s3.amazonaws.com/a%20b/c?x=1&a=%2F"
    stamp = "20261122T050000Z"
    request = AWSRequest("PUT", url, headers={"host": "examplebucket.s3.amazonaws.com"})
    request.headers["x-amz-content-sha256"] = "UNSIGNED-PAYLOAD"
    request.headers["X-Amz-Date"] = request.context["timestamp"] = stamp
    signer = S3SigV4Auth(Credentials("AKIDEXAMPLE", "secret"), "s3", "us-east-1")
    theirs = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    keys = wire.StoreKeys("AKIDEXAMPLE", "secret", "", "us-east-1")
    ours = signature(keys, "PUT", url, time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    assert ours["Authorization"].endswith(f"Signature={theirs}")


class _Store(http.server.BaseHTTPRequestHandler):
    """Answers as its server's `script` says: a status, or None to cut the connection."""

    protocol_version = "HTTP/1.1"
    server: _Misbehaving

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append(content)
        answer = self.server.script.pop(0) if self.server.script else 200
        if answer is None:
            self.close_connection = True
            return
        etag = hashlib.md5(content if answer != 299 else b"other").hexdigest()
        self.send_response(200 if answer == 299 else answer)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


class _Misbehaving(http.server.ThreadingHTTPServer):
    def __init__(self, script: list[int | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Store)
        self.script = script
        self.received: list[bytes] = []


@contextlib.contextmanager
def misbehaving(script: list[int | None]) -> Iterator[tuple[_Misbehaving, str]]:
    server = _Misbehaving(script)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_address[1]}/object?X-Amz-Signature=abc"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("mishap", [500, 503, 429, None, 299], ids=["500", "503", "429", "cut", "other bytes"])
def test_a_passing_mishap_is_tried_again(mishap: int | None) -> None:
    with misbehaving([mishap]) as (server, url):
        LentObjects().put(url, Content(lambda: iter([b"ab", b"c"]), 3, hashlib.md5(b"abc").digest()))
    assert server.received == [b"abc", b"abc"]


@pytest.mark.parametrize("answer", [400, 403, 404])
def test_a_refusal_is_final_and_names_no_url(answer: int) -> None:
    with misbehaving([answer, 200]) as (server, url), pytest.raises(Refused) as refused:
        LentObjects().put(url, Content.of(b"abc"))
    assert len(server.received) == 1
    assert "Signature" not in str(refused.value)


def test_a_store_that_keeps_failing_is_given_up() -> None:
    with misbehaving([500, 500, 500]) as (server, url), pytest.raises(UploadFailed, match="answered 500"):
        LentObjects(attempts=2).put(url, Content.of(b"abc"))
    assert len(server.received) == 2


def _start_uploader(run_folder: Path) -> subprocess.Popen[bytes]:
    from remote_trainer import run_folder as folders

    lock = folders.acquire(run_folder / upload.LOCK_FILE, wait_s=10)
    assert lock is not None
    with lock, open(os.devnull, "wb") as nowhere:
        return subprocess.Popen(
            [sys.executable, "-m", "remote_trainer", "upload", "--run-folder", str(run_folder),
             "--events-fd", str(nowhere.fileno()), "--lock-fd", str(lock.fileno())],
            stdin=subprocess.PIPE, start_new_session=True, pass_fds=(nowhere.fileno(), lock.fileno()),
        )  # fmt: skip


def _journal(run_folder: Path) -> set[str]:
    lines: set[str] = set()
    for path in (run_folder / "uploads").glob("*.done"):
        lines |= set(path.read_text().splitlines())
    return lines
