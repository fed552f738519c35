"""The `ObjectStore` contract, run by the folder and by S3 against three servers; and what only S3 can do."""

from __future__ import annotations

import datetime
import http.server
import os
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.storage.api import (
    MAX_PRESIGN_S,
    ObjectStore,
    Presigns,
    StorageError,
    StorageRefused,
    StorageUnreachable,
)
from orchestrator.storage.folder import FolderStore
from orchestrator.storage.open import open_store, require_writable
from orchestrator.storage.s3 import S3Store
from tests.contract.store_contract import StoreContract
from tests.fakes.s3_servers import S3Server, free_port, make_bucket, running_s3


class TestFolderStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FolderStore:  # type: ignore[override]
        return FolderStore(tmp_path / "store")

    def test_what_a_killed_writer_left_is_invisible_and_swept(self, store: FolderStore, tmp_path: Path) -> None:
        store.put("runs/a", b"1")
        (tmp_path / "store" / "runs" / ".cloudbooth-part-1").write_bytes(b"half")
        assert [found.key for found in store.objects()] == ["runs/a"]
        assert store.abort_stale("runs/", older_than_s=3600) == 0
        assert store.abort_stale("runs/", older_than_s=-1) == 1

    def test_a_folder_that_cannot_be_written_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StorageError, match="cannot be written"):
            require_writable(open_store((tmp_path / "file").as_uri()))


@pytest.fixture(scope="module", params=["nanio", "moto", "rclone"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(request.param, tmp_path_factory.mktemp(request.param)) as server:
        make_bucket(server)
        yield server


@pytest.fixture
def credentials(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in [key for key in os.environ if key.startswith("AWS_")]:
        monkeypatch.delenv(key)
    for key, value in server.environ.items():
        monkeypatch.setenv(key, value)


class TestS3Store(StoreContract):
    @pytest.fixture
    def store(self, server: S3Server, credentials: None) -> ObjectStore:  # type: ignore[override]
        return open_store(f"s3://bucket/{uuid.uuid4().hex[:8]}/pre fix", server.endpoint_url)

    def test_a_bucket_that_is_not_there_is_named(self, server: S3Server, credentials: None) -> None:
        with pytest.raises(StorageError, match="there is no bucket no-such-bucket"):
            require_writable(open_store("s3://no-such-bucket/x", server.endpoint_url))

    def test_a_wrong_secret_is_refused_with_a_hint(
        self, server: S3Server, credentials: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if server.name == "moto":
            pytest.skip("moto looks at no signature")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(StorageRefused) as refused:
            require_writable(open_store("s3://bucket/x", server.endpoint_url))
        assert "credentials" in refused.value.hint

    def test_a_presigned_url_takes_and_gives_without_credentials(self, store: ObjectStore) -> None:
        assert isinstance(store, Presigns)
        assert _answer(store.presign_put("lent/a", 60), b"content") == 200
        assert store.get("lent/a") == b"content"
        with urllib.request.urlopen(store.presign_get("lent/a", 60)) as answer:
            assert answer.read() == b"content"

    def test_a_presigned_url_is_good_for_one_object_only(self, store: ObjectStore, server: S3Server) -> None:
        if server.name == "moto":
            pytest.skip("moto looks at no signature")
        assert isinstance(store, Presigns)
        url = store.presign_put("lent/a", 60)
        assert _answer(url.replace("/lent/a", "/lent/b"), b"x") == 403
        assert _answer(url, b"", "DELETE") == 403
        assert store.head("lent/b") is None

    def test_a_presigned_url_expires(self, store: ObjectStore, server: S3Server) -> None:
        if server.name == "moto":
            pytest.skip("moto looks at no signature")
        assert isinstance(store, Presigns)
        url = store.presign_put("lent/late", 1)
        deadline = time.monotonic() + 10
        while (answer := _answer(url, b"x")) == 200 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert answer in (400, 403)

    def test_keys_of_ones_own_sign_for_seven_days(self, store: ObjectStore) -> None:
        assert isinstance(store, Presigns)
        assert store.presign_limit().seconds == MAX_PRESIGN_S

    def test_temporary_credentials_sign_for_as_long_as_they_live(
        self, server: S3Server, credentials: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=2)
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        (tmp_path / "config").write_text(
            "[default]\ncredential_process = echo '"
            '{"Version": 1, "AccessKeyId": "AK", "SecretAccessKey": "sk", "SessionToken": "t", '
            f'"Expiration": "{until.isoformat()}"}}\'\n'
        )
        store = S3Store("bucket", "x", server.endpoint_url)
        assert 7000 < store.presign_limit().seconds <= 7200

    def test_abandoned_multipart_writes_are_aborted(self, store: S3Store, server: S3Server) -> None:
        import boto3

        client = boto3.client("s3", endpoint_url=server.endpoint_url)
        key = f"{store.url.removeprefix('s3://bucket/')}/half"
        client.create_multipart_upload(Bucket="bucket", Key=key)
        if server.name != "moto":  # which dates every one of them 2010
            assert store.abort_stale("", older_than_s=3600) == 0
        assert store.abort_stale("", older_than_s=-3600) == 1
        assert store.abort_stale("", older_than_s=-3600) == 0

    def test_a_large_file_is_put_in_parts(self, store: ObjectStore, tmp_path: Path) -> None:
        file = tmp_path / "large"
        with file.open("wb") as handle:
            handle.truncate((64 << 20) + 1)
        assert store.put_file("large", file).bytes == (64 << 20) + 1


def test_a_store_that_does_not_answer_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(StorageError, match="does not answer"):
        require_writable(open_store("s3://bucket/x", url))


def test_an_answer_that_breaks_off_gives_what_came_and_then_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class BreaksOff(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(3 << 20))
            self.end_headers()
            self.wfile.write(bytes(3 << 19))

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with http.server.HTTPServer(("127.0.0.1", 0), BreaksOff) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        pieces = open_store("s3://bucket/x", f"http://127.0.0.1:{server.server_port}").pieces("weights")
        assert len(next(pieces)) == 1 << 20
        with pytest.raises(StorageUnreachable):
            sum(map(len, pieces))
        server.shutdown()


def test_without_credentials_the_hint_says_where_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in [key for key in os.environ if key.startswith("AWS_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageRefused) as refused:
        require_writable(open_store("s3://bucket/x", "http://127.0.0.1:9"))
    assert "AWS_ACCESS_KEY_ID" in refused.value.hint


def _answer(url: str, body: bytes, method: str = "PUT") -> int:
    request = urllib.request.Request(url, data=body, method=method)
    request.add_header("Content-Type", "application/octet-stream")  # urllib would call it a form
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_disk_that_is_not_mounted_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageRefused, match="does not exist"):
        FolderStore(tmp_path / "nas" / "cloudbooth").put("key", b"content")
    assert not (tmp_path / "nas").exists()
