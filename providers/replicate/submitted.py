"""Which jobs this installation has submitted: one JSON file for each tag, written before the request leaves.

The service keeps no tag of ours. A job is known again by its id once that is known, and until then by the URL of its
data set, which no two jobs share.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from providers.errors import CloudboothError


@dataclass(frozen=True)
class Submitted:
    tag: str
    at: float
    """Unix seconds by this machine's clock."""
    trainer: str
    version: str
    destination: str
    dataset_input: str
    dataset_url: str
    job_id: str | None = None


class SubmittedJobs:
    """Several processes may share the folder; a file is whole or not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, submitted: Submitted) -> None:
        """Durable when this returns."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = self._folder / f".{submitted.tag}.{os.getpid()}.part"
        descriptor = os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)  # the URL may be signed
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(submitted), indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._folder / f"{submitted.tag}.json")
        if os.name == "posix":  # Windows opens no folders
            folder = os.open(self._folder, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    def answered(self, submitted: Submitted, job_id: str) -> None:
        self.write(replace(submitted, job_id=job_id))

    def with_prefix(self, prefix: str) -> list[Submitted]:
        if not self._folder.is_dir():
            return []
        found = []
        for path in sorted(self._folder.glob("*.json")):
            if path.stem.startswith(prefix):
                try:
                    found.append(Submitted(**json.loads(path.read_text("utf-8"))))
                except (ValueError, TypeError):
                    raise CloudboothError(f"the record of job {path.stem} is damaged: {path}", f"rm {path}") from None
        return found

    def tag_of(self, job_id: str) -> str:
        """Empty for a job that was not submitted from here."""
        with suppress(CloudboothError):
            return next((known.tag for known in self.with_prefix("") if known.job_id == job_id), "")
        return ""
