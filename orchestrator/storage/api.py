"""What a store of objects is: the Protocols, the data that cross them, and the errors.

Keys are relative to the store's address, with `/` between their parts; a store never sees a key that leaves it.
Everything is whole or not there: an object that can be read was written to its end. Implementations are safe to use
from several threads and pass `tests/contract/store_contract.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from providers.errors import CloudboothError
from remote_trainer import wire

MIN_PART_BYTES = 5 << 20
"""All sources of a `compose` but the last are at least this large: a rule of S3's that every store here keeps."""
MAX_PART_BYTES = 5 << 30
MAX_PARTS = 10_000
MAX_PRESIGN_S = 7 * 24 * 3600.0
"""S3 refuses presigned URLs that live longer than seven days."""


class StorageError(CloudboothError):
    """The store did not do what was asked; nothing half done is visible in it."""


class NoSuchObject(StorageError):
    """There is no object under this key."""


class ObjectExists(StorageError):
    """`put` with `if_absent` found an object there."""


class ObjectChanged(StorageError):
    """A source of `compose` is no longer what the caller saw."""


class StorageRefused(StorageError):
    """Credentials are missing, wrong, or may not do this here."""


class StorageUnreachable(StorageError):
    """The store does not answer from this machine."""


@dataclass(frozen=True)
class StoredObject:
    key: str
    bytes: int
    etag: str
    """Changes whenever the content does; means nothing beyond that."""


@dataclass(frozen=True)
class PresignLimit:
    """How long an URL that is signed now can be good, and by what that is bounded."""

    seconds: float
    why: str


class ObjectStore(Protocol):
    """Methods block for one exchange (or one for each part of a large object), and may be repeated.

    All raise StorageRefused and StorageUnreachable, and StorageError for what the store gives no other reason.
    """

    url: str
    """The address as the user wrote it, without secrets."""

    def put(self, key: str, content: bytes, *, if_absent: bool = False) -> StoredObject:
        """Writes or replaces. With `if_absent` raises ObjectExists instead of replacing, as far as the store knows
        conditional writes: two writers at the same moment are told apart on AWS, R2 and MinIO, not everywhere."""
        ...

    def put_file(self, key: str, file: Path) -> StoredObject:
        """A file of any size, in parts where it is large; memory is bounded. Raises OSError for the file."""
        ...

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """The content, or `length` bytes of it from `offset`, within its size. Raises NoSuchObject."""
        ...

    def pieces(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The same as it arrives, in pieces of at most a MiB; blocks for each. Raises NoSuchObject, and
        StorageUnreachable also after some of them: what has come is right as far as it goes."""
        ...

    def head(self, key: str) -> StoredObject | None:
        """None when there is no such object."""
        ...

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        """Every object whose key starts with `prefix`, in the order of the keys, all pages."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """What is gone already is success."""
        ...

    def compose(self, key: str, sources: Sequence[StoredObject]) -> StoredObject:
        """Writes the concatenation of objects of this store: by copies within it, so far as it knows how to.

        Raises NoSuchObject, ObjectChanged for a source whose content is no longer the one seen, and ValueError for no
        source, for one but the last below `MIN_PART_BYTES`, or for more than `MAX_PARTS`.
        """
        ...

    def abort_stale(self, prefix: str, older_than_s: float) -> int:
        """Ends unfinished multipart writes below `prefix` begun longer ago than this: they are invisible and billed.

        Returns how many.
        """
        ...


@runtime_checkable
class Presigns(Protocol):
    """The store can lend one operation on one object to somebody without credentials."""

    def presign_put(self, key: str, lifetime_s: float) -> str:
        """An URL that takes one `PUT` after another of any content until it expires. No exchange with the store."""
        ...

    def presign_get(self, key: str, lifetime_s: float) -> str: ...

    def presign_limit(self) -> PresignLimit:
        """How long URLs signed now can live. Longer ones are refused by the store or die with the credentials."""
        ...


@runtime_checkable
class HandsOverKeys(Protocol):
    """The store takes requests that are signed elsewhere with its keys: the last resort where nothing can be lent."""

    def store_keys(self) -> wire.StoreKeys: ...

    def object_url(self, key: str) -> str:
        """Of an object, unsigned. No exchange with the store."""
        ...


def checked_key(key: str) -> str:
    """The key itself. Raises ValueError for one that is empty, absolute or leads elsewhere."""
    parts = key.split("/")
    if not key or "" in parts or "." in parts or ".." in parts or "\\" in key or "\0" in key:
        raise ValueError(f"not a key: {key!r}")
    return key


def require_composable(sources: Sequence[StoredObject]) -> None:
    """Raises ValueError for what `compose` cannot take."""
    if not sources or len(sources) > MAX_PARTS:
        raise ValueError(f"{len(sources)} sources; between 1 and {MAX_PARTS} can be composed")
    for source in sources[:-1]:
        if source.bytes < MIN_PART_BYTES:
            raise ValueError(f"{source.key} has {source.bytes} bytes, less than a part may have")
