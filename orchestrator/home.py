"""Where this installation keeps its state: the ledger and a folder for every run."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from orchestrator.host import HostError

JOB_FILE = "job.json"
"""`remote_trainer.wire.JOB_FILE`, without loading the whole protocol for it: every command asks for paths."""


@dataclass(frozen=True)
class Home:
    """Paths below one root; nothing is created by asking for a path."""

    root: Path

    @classmethod
    def of_environment(cls) -> Home:
        """`CLOUDBOOTH_HOME`, else the platform's folder for application data."""
        chosen = os.environ.get("CLOUDBOOTH_HOME")
        return cls(Path(chosen).expanduser().absolute() if chosen else platformdirs.user_data_path("cloudbooth"))

    @property
    def ledger_file(self) -> Path:
        return self.root / "ledger.sqlite3"

    @property
    def config_file(self) -> Path:
        """What the user may write for all runs; nothing of ours."""
        return self.root / "config.toml"

    @property
    def providers_folder(self) -> Path:
        return self.root / "providers"

    def run(self, name: str) -> RunHome:
        return RunHome(self.root / "runs" / name)


@dataclass(frozen=True)
class RunHome:
    """The folder of one run on the laptop."""

    root: Path

    @property
    def staged(self) -> Path:
        """What is shipped, laid out as in the run's folder on the host."""
        return self.root / "ship"

    @property
    def job_file(self) -> Path:
        return self.root / JOB_FILE

    @property
    def driver_lock(self) -> Path:
        """Beside the folder, so that staging can replace the folder while it holds the lock."""
        return self.root.with_name(f".{self.root.name}.lock")

    @property
    def fetch_lock(self) -> Path:
        """Held by the process that brings pictures, checkpoints or the model home."""
        return self.root / ".fetch.lock"

    @property
    def machine_keys(self) -> Path:
        """The key pairs of rented machines, one folder for each, until its absence is confirmed."""
        return self.root / "machine-keys"

    @property
    def sent_job(self) -> Path:
        """The job as the newest host has it."""
        return self.root / "sent" / JOB_FILE

    @property
    def photos(self) -> Path:
        """Which photo each shipped picture is of, where captions are to come home to them."""
        return self.root / "photos.json"

    @property
    def captions(self) -> Path:
        """What the machine wrote of them."""
        return self.root / "captions.json"

    @property
    def log_lock(self) -> Path:
        """Held while `train.log` comes: whoever wants to read it does not wait for a checkpoint."""
        return self.root / ".log.lock"

    @property
    def driver_log(self) -> Path:
        return self.root / "driver.log"

    @property
    def log_to(self) -> Path:
        """Where every driver of the run has it logged, as `--log-to` was given."""
        return self.root / "log-to"

    @property
    def trainer_log(self) -> Path:
        """The host's `train.log`, fetched when a run ends."""
        return self.root / "train.log"

    def events(self, incarnation: str) -> Path:
        """The mirror of one event log; its size is the offset to follow from.

        Raises HostError for what is no plain name: a host chooses it, and a host may be a stranger's.
        """
        if re.search(r"[^\w.-]", incarnation):
            raise HostError(f"the host's event log has a name that none of ours has: {incarnation!r}")
        return self.root / f"events-{incarnation}.jsonl"

    def event_logs(self) -> list[Path]:
        """The mirrors of all incarnations, in the order in which they were written."""
        return sorted(self.root.glob("events-*.jsonl"), key=lambda path: path.stat().st_mtime)
