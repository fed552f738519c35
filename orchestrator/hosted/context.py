"""What a phase of a hosted job gets: the run, its ports, and the quote that it was accepted with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from orchestrator.clock import Clock
from orchestrator.errors import RunConflict, StaleDriver
from orchestrator.home import RunHome
from orchestrator.hosted.plan import recorded_quote
from orchestrator.ledger import Ledger, MachineRecord, RunRecord
from orchestrator.lifecycle import Wish
from orchestrator.reporter import Reporter
from orchestrator.spec import RunSpec
from orchestrator.storage.api import ObjectStore
from providers.jobs import JobId, JobProvider, JobQuote


@dataclass(frozen=True)
class JobContext:
    """`run` is as of the last move; `epoch` is this driver's. The job's record is a machine's in the ledger."""

    run: RunRecord
    epoch: int
    ledger: Ledger
    jobs: JobProvider
    clock: Clock
    reporter: Reporter
    home: RunHome
    spec: RunSpec
    store: ObjectStore | None = None

    @cached_property
    def quote(self) -> JobQuote:
        return recorded_quote(self.run.plan_json)

    @property
    def output_folder(self) -> Path:
        return self.spec.output.folder / self.run.name

    @property
    def archive(self) -> Path:
        """What the service hands out, as it came."""
        return self.home.root / "weights"

    def record(self) -> MachineRecord | None:
        return self.ledger.machine(self.run.name, self.run.attempt)

    def job_record(self) -> tuple[MachineRecord, JobId]:
        record = self.record()
        if record is None or record.machine_id is None:
            raise RunConflict(f"run `{self.run.name}` has no job")
        return record, JobId(record.machine_id)

    def wish(self) -> Wish:
        """Read anew: another process may have changed it."""
        return self.ledger.run(self.run.name).wish

    def require_driver(self) -> None:
        """Raises StaleDriver when another process has taken the run over."""
        if self.ledger.run(self.run.name).driver_epoch != self.epoch:
            raise StaleDriver(f"another process drives run `{self.run.name}` now", f"cloudbooth attach {self.run.name}")
