"""Files of a run on a host: the folder they lie in, and the manifests that say what is whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from .codec import PROTOCOL, WireError, decode, encode, parse
from .plain_text import plain_text

JOB_FILE = "job.json"
EVENTS_FILE = "events.jsonl"
LOG_FILE = "train.log"
CHECKPOINTS_FOLDER = "checkpoints"
STATE_FILE = "state.json"
"""In the folder of a checkpoint."""
VALIDATION_FOLDER = "validation"
OUTPUT_FOLDER = "output"


def checkpoint_folder(step: int) -> str:
    """`checkpoints/checkpoint-000100`, relative to the run's folder."""
    return f"{CHECKPOINTS_FOLDER}/checkpoint-{step:06d}"


@dataclass(frozen=True)
class FileEntry:
    path: str
    """Relative to the manifest's folder: forward slashes, never absolute, never `..`, nothing that a terminal obeys."""
    bytes: int
    sha256: str

    @property
    def stays_inside(self) -> bool:
        """Whether `path` keeps to the folder that it is relative to. Machines may be strangers': ask before writing."""
        parts = self.path.split("/")
        inside = not self.path.startswith("/") and not {"", "..", "."} & set(parts)
        return inside and "\\" not in self.path and plain_text(self.path) == self.path


MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """The files of a checkpoint or an export. Written last: a folder without one was never committed."""

    step: int
    files: tuple[FileEntry, ...]
    protocol: int = PROTOCOL

    def to_bytes(self) -> bytes:
        """The one serialized form: its sha256 identifies the artifact."""
        return (json.dumps(encode(self), indent=1, sort_keys=True) + "\n").encode()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def total_bytes(self) -> int:
        return sum(entry.bytes for entry in self.files)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Manifest:
        """Raises WireError for broken JSON and for a path that would leave the folder."""
        manifest = decode(cls, parse(raw))
        for entry in manifest.files:
            if not entry.stays_inside:
                raise WireError(f"manifest names a path outside its folder: {entry.path!r}")
        return manifest


def partial_name(path: str) -> str:
    """Where a file grows on a host until it is complete and right: `unet/.weights.part` for `unet/weights`."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.part"


TAR_OFFSET, TAR_SHA256 = "CLOUDBOOTH.offset", "CLOUDBOOTH.sha256"
"""Extended headers of a tar stream to a host: where in its file a member belongs (it is a range then, and no file by
itself), and the hash of the file, with a member that is all of it or its last range."""


@dataclass(frozen=True)
class CommittedFolder:
    """A checkpoint or export that stands complete on the host's disk."""

    step: int
    folder: str
    """Relative to the run's folder."""
    manifest_sha256: str
