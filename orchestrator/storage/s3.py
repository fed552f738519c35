"""S3 and what speaks its protocol: AWS, Wasabi, R2, B2, MinIO by their `endpoint_url`.

Credentials come from the AWS chain (environment, ~/.aws, SSO, instance roles); this module never sees a value in a
spec. Checksums of newer SDKs are asked for only where the protocol demands them: several servers answer them wrongly.
"""

from __future__ import annotations

import datetime
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from orchestrator.errors import UsageError
from orchestrator.storage.api import (
    MAX_PRESIGN_S,
    NoSuchObject,
    ObjectChanged,
    ObjectExists,
    PresignLimit,
    StorageError,
    StorageRefused,
    StorageUnreachable,
    StoredObject,
    checked_key,
    require_composable,
)
from remote_trainer import wire

PART_BYTES = 64 << 20
PIECE_BYTES = 1 << 20
THREADS = 8
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
UNKNOWN_SESSION_S = 3600.0
"""Temporary credentials that do not say when they end: an hour is what roles give by themselves."""
FALLBACK_REGION = "us-east-1"
_REFUSED = {
    "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403", "401",
    "AllAccessDisabled", "AccountProblem", "UnauthorizedAccess", "Unauthorized",
}  # fmt: skip
_MISSING = {"404", "NoSuchKey", "NoSuchUpload", "NotFound"}

T = TypeVar("T")
_BringPart = Callable[[str, str, int, StoredObject], dict[str, Any]]


class S3Store:
    """Implements `ObjectStore` and `Presigns`. The client is made by the first call: boto3 takes half a second."""

    def __init__(self, bucket: str, prefix: str, endpoint_url: str | None = None) -> None:
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket, self._prefix, self._endpoint_url = bucket, prefix.strip("/"), endpoint_url
        self._made: Any = None
        self._credentials: Any = None
        self._carrying = threading.Lock()

    def put(self, key: str, content: bytes, *, if_absent: bool = False) -> StoredObject:
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        if if_absent and self.head(key) is not None:  # for stores that ignore the condition
            raise ObjectExists(f"{key} exists already in {self.url}")
        with self._explained(key):
            answer = self._client.put_object(**self._at(key), Body=content, **condition)
        return StoredObject(key, len(content), answer["ETag"].strip('"'))

    def put_file(self, key: str, file: Path) -> StoredObject:
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(
            multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4, io_chunksize=1 << 20
        )
        with self._explained(key):
            self._client.upload_file(str(file), self._bucket, self._full(key), Config=config)
        return self._require(key)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return b"".join(self.pieces(key, offset, length))

    def pieces(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        if length == 0:
            return
        until = "" if length is None else str(offset + length - 1)
        ranged = {"Range": f"bytes={offset}-{until}"} if offset or length is not None else {}
        with self._explained(key), closing(self._client.get_object(**self._at(key), **ranged)["Body"]) as body:
            while piece := body.read(PIECE_BYTES):
                yield piece

    def head(self, key: str) -> StoredObject | None:
        try:
            with self._explained(key):
                answer = self._client.head_object(**self._at(key))
        except NoSuchObject:
            return None
        return StoredObject(key, answer["ContentLength"], answer["ETag"].strip('"'))

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        cut = len(self._full("")) if self._prefix else 0
        with self._explained(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._full(prefix)
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    yield StoredObject(item["Key"][cut:], item["Size"], item["ETag"].strip('"'))

    def delete(self, keys: Sequence[str]) -> None:
        """One request for each: the batch call needs checksums that not every server accepts."""

        def delete(key: str) -> None:
            with suppress(NoSuchObject), self._explained(key):
                self._client.delete_object(**self._at(key))

        self._side_by_side(delete, keys)

    def compose(self, key: str, sources: Sequence[StoredObject]) -> StoredObject:
        require_composable(sources)
        # Not every server heeds the condition that goes with each copy.
        for source, found in zip(sources, self._side_by_side(self.head, [s.key for s in sources]), strict=True):
            if found is None:
                raise self._missing(source.key)
            if found != source:
                raise self._changed(source.key)
        if len(sources) == 1:
            with self._explained(sources[0].key):
                self._client.copy_object(**self._at(key), **self._unchanged(sources[0]))
            return self._require(key)
        if not self._composed(key, sources, self._copy_part):
            self._composed(key, sources, self._carry_part)
        return self._require(key)

    def _composed(self, key: str, sources: Sequence[StoredObject], bring: _BringPart) -> bool:
        """Whether the server did it: some take a copy of a part for an empty part, and leave its tag out."""
        with self._explained(key):
            upload = self._client.create_multipart_upload(**self._at(key))["UploadId"]
        whole = False
        try:
            parts = self._side_by_side(lambda numbered: bring(key, upload, *numbered), list(enumerate(sources, 1)))
            if all(part["ETag"] for part in parts):
                with self._explained(key):
                    self._client.complete_multipart_upload(
                        **self._at(key), UploadId=upload, MultipartUpload={"Parts": parts}
                    )
                whole = True
        finally:
            if not whole:
                with suppress(StorageError), self._explained(key):
                    self._client.abort_multipart_upload(**self._at(key), UploadId=upload)
        return whole

    def _copy_part(self, key: str, upload: str, number: int, source: StoredObject) -> dict[str, Any]:
        with self._explained(source.key):
            answer = self._client.upload_part_copy(
                **self._at(key), **self._unchanged(source), UploadId=upload, PartNumber=number
            )
        return {"PartNumber": number, "ETag": answer["CopyPartResult"].get("ETag")}

    def _carry_part(self, key: str, upload: str, number: int, source: StoredObject) -> dict[str, Any]:
        """For servers that cannot: the bytes pass through here, one part at a time."""
        with self._carrying:
            content = self.get(source.key)
            with self._explained(key):
                answer = self._client.upload_part(**self._at(key), UploadId=upload, PartNumber=number, Body=content)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def abort_stale(self, prefix: str, older_than_s: float) -> int:
        begun_before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=older_than_s)
        stale = []
        with suppress(NoSuchObject), self._explained(prefix):  # as some servers call it when there never was one
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._full(prefix)
            )
            for page in pages:
                stale += [
                    item
                    for item in page.get("Uploads", ())
                    # The prefix once more: a server that overlooks it would have us end what others have begun.
                    if item["Initiated"] < begun_before and item["Key"].startswith(self._full(prefix))
                ]
            for item in stale:
                with suppress(NoSuchObject), self._explained(prefix):
                    self._client.abort_multipart_upload(Bucket=self._bucket, Key=item["Key"], UploadId=item["UploadId"])
        return len(stale)

    # -- presigning

    def presign_put(self, key: str, lifetime_s: float) -> str:
        return self._presigned("put_object", key, lifetime_s)

    def presign_get(self, key: str, lifetime_s: float) -> str:
        return self._presigned("get_object", key, lifetime_s)

    def presign_limit(self) -> PresignLimit:
        """Temporary credentials bound it: an URL dies with the session that signed it."""
        assert self._client is not None  # whose making looks the credentials up
        if not self._credentials.get_frozen_credentials().token:
            return PresignLimit(MAX_PRESIGN_S, "the longest that S3 allows")
        expiry = getattr(self._credentials, "_expiry_time", None)
        if expiry is None:
            return PresignLimit(UNKNOWN_SESSION_S, "temporary credentials that do not say when they end")
        left_s = (expiry - datetime.datetime.now(datetime.UTC)).total_seconds()
        return PresignLimit(max(0.0, min(left_s, MAX_PRESIGN_S)), "the temporary credentials end then")

    def store_keys(self) -> wire.StoreKeys:
        """The credentials themselves, for a machine that has to sign by itself."""
        client = self._client
        frozen = self._credentials.get_frozen_credentials()
        return wire.StoreKeys(frozen.access_key, frozen.secret_key, frozen.token or "", client.meta.region_name)

    def object_url(self, key: str) -> str:
        """Of an object, unsigned."""
        return f"{self._client.meta.endpoint_url.rstrip('/')}/{self._bucket}/{quote(self._full(checked_key(key)))}"

    def _presigned(self, operation: str, key: str, lifetime_s: float) -> str:
        with self._explained(key):
            url: str = self._client.generate_presigned_url(
                operation, Params=self._at(key), ExpiresIn=max(1, int(lifetime_s))
            )
        return url

    # -- internals

    @property
    def _client(self) -> Any:
        if self._made is None:
            self._made = self._make_client()
        return self._made

    def _make_client(self) -> Any:
        import boto3
        import botocore.config
        import botocore.exceptions

        session = boto3.session.Session()
        self._credentials = session.get_credentials()
        if self._credentials is None:
            raise StorageRefused(
                f"there are no credentials for {self.url}",
                "export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…, or `aws configure`",
            )
        config = botocore.config.Config(
            signature_version="s3v4",
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "total_max_attempts": 4},
            max_pool_connections=2 * THREADS,
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            s3={"addressing_style": "path" if _names_an_endpoint(self._endpoint_url) else "auto"},
        )

        def client(region: str) -> Any:
            try:
                return session.client("s3", region_name=region, endpoint_url=self._endpoint_url, config=config)
            except ValueError as error:  # the endpoint is no address
                raise UsageError(f"{_first_line(error)}", "`--set storage.endpoint_url=https://…`") from None

        made = client(session.region_name or FALLBACK_REGION)
        if ".amazonaws.com" not in made.meta.endpoint_url:
            return made
        try:
            headers = made.head_bucket(Bucket=self._bucket)["ResponseMetadata"]["HTTPHeaders"]
        except botocore.exceptions.ClientError as error:
            headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        except botocore.exceptions.BotoCoreError:
            return made
        # Requests are redirected to the bucket's region; presigned URLs are not, so it has to be known.
        region = headers.get("x-amz-bucket-region")
        return made if region in (None, made.meta.region_name) else client(region)

    def _full(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._full(checked_key(key))}

    def _unchanged(self, source: StoredObject) -> dict[str, Any]:
        return {
            "CopySource": {"Bucket": self._bucket, "Key": self._full(source.key)}, "CopySourceIfMatch": source.etag,
        }  # fmt: skip

    def _require(self, key: str) -> StoredObject:
        found = self.head(key)
        if found is None:
            raise self._missing(key)
        return found

    def _missing(self, key: str) -> NoSuchObject:
        return NoSuchObject(f"there is no {key} in {self.url}")

    def _changed(self, key: str) -> ObjectChanged:
        return ObjectChanged(f"{key} in {self.url} is no longer what it was")

    def _side_by_side(self, work: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        """In order. The client is made before the threads share it."""
        assert self._client is not None
        with ThreadPoolExecutor(THREADS) as pool:
            return [*pool.map(work, items)]

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Turns the SDK's errors into ours, by code and not by text."""
        import boto3.exceptions
        import botocore.exceptions

        try:
            yield
        except botocore.exceptions.ClientError as error:
            raise self._storage_error(error, key) from None
        except boto3.exceptions.S3UploadFailedError as error:
            cause = error.__context__
            if isinstance(cause, botocore.exceptions.ClientError):
                raise self._storage_error(cause, key) from None
            raise StorageError(f"{key} did not arrive in {self.url}", "run the command again") from error
        except botocore.exceptions.NoCredentialsError:
            raise self._no_credentials() from None
        except (botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError) as error:
            where = self._endpoint_url or "the store"
            raise StorageUnreachable(
                f"{where} does not answer: {_first_line(error)}",
                "check the network, storage.endpoint_url and AWS_ENDPOINT_URL_S3",
            ) from None
        except botocore.exceptions.IncompleteReadError:
            raise StorageUnreachable(f"{key} broke off on its way from {self.url}", "run the command again") from None
        except botocore.exceptions.BotoCoreError as error:
            raise StorageError(
                f"{self.url} cannot be used: {_first_line(error)}", "check storage.url and storage.endpoint_url"
            ) from None

    def _storage_error(self, error: Any, key: str) -> Exception:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code == "NoSuchBucket":
            return StorageError(
                f"there is no bucket {self._bucket} at {self._endpoint_url or 'AWS'}",
                f"`aws s3 mb s3://{self._bucket}`, or check the name in storage.url",
            )
        if code in _MISSING:
            return self._missing(key)
        if code in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
            if error.operation_name == "PutObject":
                return ObjectExists(f"{key} exists already in {self.url}")
            return self._changed(key)
        if code in _REFUSED or status in (401, 403):
            return StorageRefused(
                f"{self.url} refuses {error.operation_name}: {code or status}",
                "check the credentials (`aws sts get-caller-identity`) and what they may do in this bucket",
            )
        said = str(error.response.get("Error", {}).get("Message", "")).rstrip(".")
        return StorageError(f"{self.url}: {error.operation_name} failed: {code} {said}".rstrip(), "run it again")

    def _no_credentials(self) -> StorageRefused:
        return StorageRefused(
            f"there are no credentials for {self.url}",
            "export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…, or `aws configure`",
        )


def _names_an_endpoint(endpoint_url: str | None) -> bool:
    """Names of buckets are part of the host name at AWS; elsewhere few servers know that form."""
    return bool(endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
