"""What a host may write to a store, and what it says there of an artifact."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, Optional

from .codec import PROTOCOL, Positive, WireError
from .files import Manifest


@dataclass(frozen=True)
class LentObject:
    """Two URLs that write and read one object until they expire."""

    put: str = dataclasses.field(repr=False)
    get: str = dataclasses.field(repr=False)


@dataclass(frozen=True)
class StoreKeys:
    """Credentials themselves, for stores that cannot presign. Only on the user's explicit word, only in memory."""

    access_key: str = dataclasses.field(repr=False)
    secret_key: str = dataclasses.field(repr=False)
    session_token: str = dataclasses.field(repr=False)
    region: str


@dataclass(frozen=True)
class UploadGrant:
    """What a host may write to the store: numbered objects of a pool, and nothing else. Without `keys`, no secret of
    the account is in it. A later grant replaces an earlier one."""

    id: str
    chunk_bytes: Positive
    """Of every chunk but the last of each file."""
    chunks: tuple[str, ...] = dataclasses.field(repr=False)
    """URLs for `PUT`, by number."""
    indexes: tuple[LentObject, ...]
    """Each for the index of one artifact, written after its chunks."""
    probe: LentObject
    lifetime_s: float
    """How long the URLs are good, from the moment they are handed over."""
    keys: Optional[StoreKeys] = None
    """Signs the requests, where the URLs are not signed themselves."""
    protocol: int = PROTOCOL


@dataclass(frozen=True)
class UploadedChunk:
    number: int
    """In `UploadGrant.chunks`."""
    bytes: int
    sha256: str


@dataclass(frozen=True)
class UploadIndex:
    """Written last: the artifact is in the store. Overwritten with `RETIRED` before its chunks are used again."""

    kind: Literal["checkpoint", "output"]
    manifest: str
    """The manifest file, byte for byte."""
    files: tuple[tuple[UploadedChunk, ...], ...]
    """The chunks of each file, in the order of the manifest; none for an empty file."""
    protocol: int = PROTOCOL

    def read_manifest(self) -> Manifest:
        """Raises WireError as `Manifest.from_bytes` does, and for chunks that do not add up to the files."""
        manifest = Manifest.from_bytes(self.manifest.encode())
        sizes = [sum(chunk.bytes for chunk in chunks) for chunks in self.files]
        if sizes != [entry.bytes for entry in manifest.files]:
            raise WireError("an upload's index does not match its manifest")
        return manifest


RETIRED = b"{}"
