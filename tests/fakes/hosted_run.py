"""A hosted run without a command line: the driver in this process, on a clock that sleeping moves."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from orchestrator.clock import Clock
from orchestrator.dataset.buckets import Sizing
from orchestrator.dataset.placement import place_photos
from orchestrator.dataset.prepare import prepare_photos
from orchestrator.dataset.scan import Scan, scan_folder
from orchestrator.home import Home
from orchestrator.hosted.context import JobContext
from orchestrator.hosted.dataset_zip import write_dataset_zip
from orchestrator.hosted.driver import drive_job
from orchestrator.hosted.phases import DATASET_FILE
from orchestrator.hosted.plan import JobPlan, job_plan_to_data, job_wish, make_job_plan
from orchestrator.ledger import Ledger, MachineRecord, RunRecord
from orchestrator.lifecycle import EndReason, State
from orchestrator.mirror import EventReader
from orchestrator.progress import Progress
from orchestrator.spec import RunSpec, spec_to_json
from orchestrator.spec_file import spec_from_photos
from orchestrator.storage.api import ObjectStore
from providers.registry import ProviderContext
from providers.replicate.provider import ReplicateProvider
from providers.retrying import RetryingJobProvider
from remote_trainer import wire
from tests.e2e.command import PHOTOS
from tests.fakes.replicate import FakeReplicate
from tests.unit.fake_clock import FakeClock


@cache
def scanned() -> Scan:
    return scan_folder(PHOTOS)


@cache
def small_dataset(prompt: str) -> bytes:
    """The photos at a size that is quickly made."""
    placed = place_photos(scanned().photos, Sizing("side", 64, square=False))
    with TemporaryDirectory() as folder:
        images = prepare_photos([(one.photo, one.bucket) for one in placed], Path(folder))
        target = Path(folder) / "dataset.zip"
        write_dataset_zip(Path(folder), images, prompt, target)
        return target.read_bytes()


@dataclass
class Told:
    """What a driver has told."""

    states: list[State] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    events: list[wire.Event] = field(default_factory=list)

    def moved(self, state: State, why: str) -> None:
        self.states.append(state)

    def event(self, envelope: wire.Envelope, progress: Progress) -> None:
        self.events.append(envelope.event)

    def transfer(self, what: str, done_bytes: int, total_bytes: int) -> None: ...

    def arrived(self, what: str, path: str) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass
class HostedRun:
    """One installation and one run of it, accepted and not yet driven."""

    folder: Path
    fake: FakeReplicate
    overrides: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    store: ObjectStore | None = None
    upload_limit_bytes: int | None = None
    clock: Clock = field(default_factory=lambda: FakeClock(time.time()))
    told: Told = field(default_factory=Told)

    def __post_init__(self) -> None:
        self.fake.now = self.clock.now
        self.home = Home(self.folder / "state")
        self.ledger = Ledger(self.home.ledger_file, self.clock)

    @property
    def provider(self) -> ReplicateProvider:
        folder = self.home.providers_folder / "replicate"
        return ReplicateProvider(ProviderContext(folder, self.fake.environ, {}, self.config))

    @property
    def spec(self) -> RunSpec:
        sets = ("compute.provider=replicate", "name=bot", "train.steps=400", f"output.folder={self.folder}/models")
        return spec_from_photos(PHOTOS, "sks robot", (*sets, *self.overrides))

    def plan(self) -> JobPlan:
        return make_job_plan(self.spec, scanned(), self.provider.quote(job_wish(self.spec)))

    def accept(self) -> None:
        plan, home = self.plan(), self.home.run("bot")
        home.root.mkdir(parents=True)
        (home.root / DATASET_FILE).write_bytes(small_dataset(plan.instance_prompt))
        data = job_plan_to_data(plan)
        if self.upload_limit_bytes is not None:
            data["quote"]["upload_limit_bytes"] = self.upload_limit_bytes
        self.ledger.add_run("bot", "replicate", spec_to_json(self.spec), json.dumps(data))

    def context(self) -> JobContext:
        """A new driver's."""
        return JobContext(
            run=self.run,
            epoch=self.ledger.become_driver("bot"),
            ledger=self.ledger,
            jobs=RetryingJobProvider(self.provider, self.clock.sleep, self.told.note),
            clock=self.clock,
            reporter=self.told,
            home=self.home.run("bot"),
            spec=self.spec,
            store=self.store,
        )

    def drive(self) -> EndReason:
        return drive_job(self.context())

    @property
    def run(self) -> RunRecord:
        return self.ledger.run("bot")

    @property
    def record(self) -> MachineRecord:
        """Of the newest job."""
        return self.ledger.machines("bot")[-1]

    @property
    def output(self) -> Path:
        return self.folder / "models" / "bot"

    def written_events(self) -> list[wire.Event]:
        return [envelope.event for envelope in EventReader(self.home.run("bot")).fresh()]
