"""From the address in a spec to a store, and whether it can be used."""

from __future__ import annotations

import contextlib
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.errors import UsageError
from orchestrator.storage.api import ObjectStore
from orchestrator.storage.folder import FolderStore
from orchestrator.storage.s3 import S3Store

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_FORMS = "s3://bucket/prefix or file:///folder"


def address_problem(url: str) -> str | None:
    """What is wrong with an address, as words after "storage.url"; None when nothing is. No exchange with anybody."""
    parts = urlsplit(url)
    if parts.scheme not in ("s3", "file"):
        return f'must be {_FORMS}, is "{url}"'
    if parts.username or parts.password or parts.query or parts.fragment:
        return "holds more than an address: credentials come from the environment or ~/.aws, never from a spec"
    if parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/") or not parts.path.strip("/")):
        return f'must name a folder by three slashes and its whole path, file:///mnt/models, is "{url}"'
    if parts.scheme == "s3" and not _BUCKET.fullmatch(parts.netloc):
        return f'names no bucket that can exist ("{parts.netloc}"): s3://bucket/prefix'
    if ".." in parts.path.split("/"):
        return f'leads out of itself: "{url}"'
    return None


@dataclass(frozen=True)
class EndpointProblem:
    words: str
    """After "storage.endpoint_url"."""
    instead: str
    """An address that is probably meant."""


def endpoint_problem(endpoint_url: str, url: str | None = None) -> EndpointProblem | None:
    """What is wrong with the address of a service that speaks S3; `url` is that of the store. No exchange with anybody.

    Consoles show an address with the bucket in it, as a path (R2) or as part of the name (Wasabi, AWS); the requests
    would then name the bucket twice, and be answered as if it did not exist.
    """
    parts = urlsplit(endpoint_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", endpoint_url):
        host = re.sub(r"^[a-z0-9]*:?/*", "", endpoint_url) if ":/" in endpoint_url else endpoint_url
        host = host.strip().rstrip("/") or "s3.example.com"
        return EndpointProblem(f'must be a web address with https://, is "{endpoint_url}"', f"https://{host}")
    host = parts.netloc.rpartition("@")[2]
    if parts.username or parts.query or parts.fragment:
        words = "holds more than an address: credentials come from the environment or ~/.aws, never from a spec"
        return EndpointProblem(words, f"{parts.scheme}://{host}")
    bucket = urlsplit(url).netloc if url else ""
    if bucket and parts.path.strip("/").split("/")[0] == bucket:
        return EndpointProblem(f'names the bucket "{bucket}", which stands in storage.url', f"{parts.scheme}://{host}")
    if bucket and host.startswith(f"{bucket}."):
        without = f"{parts.scheme}://{host.removeprefix(f'{bucket}.')}"
        return EndpointProblem(f'names the bucket "{bucket}", which stands in storage.url', without)
    return None


def open_store(url: str, endpoint_url: str | None = None) -> ObjectStore:
    """No exchange with the store before the first call. Raises UsageError for an address that is none."""
    if problem := address_problem(url):
        raise UsageError(f"the store's address {problem}", f"write {_FORMS}")
    if endpoint_url is not None and (wrong := endpoint_problem(endpoint_url, url)):
        raise UsageError(f"the store's endpoint {wrong.words}", f"`--endpoint-url {wrong.instead}`")
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FolderStore(Path(unquote(parts.path)))
    return S3Store(parts.netloc, parts.path.strip("/"), endpoint_url)


def require_writable(store: ObjectStore) -> None:
    """Writes, reads and removes a small object. Raises StorageError (and its kinds) when one of them fails."""
    key = f"probe/{uuid.uuid4().hex}"
    store.put(key, b"cloudbooth")
    try:
        store.get(key, 0, 4)
    finally:
        with contextlib.suppress(Exception):
            store.delete([key])
