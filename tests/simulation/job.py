"""What is trained in a simulated world: one run, its spec and its photos."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from orchestrator.home import RunHome
from orchestrator.spec import Compute, Limits, Model, Output, RunSpec, Storage, Subject
from orchestrator.spec_data import Data
from remote_trainer import wire
from tests.simulation.schedule import Schedule, Training
from tests.simulation.store import SimulatedStore

RUN = "run"
PHOTO = b"not a picture, which nobody here looks at" * 8


def stage_job(home: RunHome, numbers: Training, photos: int) -> None:
    """As a launch leaves it for the driver."""
    folder = home.staged / "data" / "instance"
    folder.mkdir(parents=True)
    names = [f"{number}.png" for number in range(1, photos + 1)]
    for name in names:
        (folder / name).write_bytes(PHOTO)
    pictures = tuple(wire.ImageSpec(name, hashlib.sha256(PHOTO).hexdigest(), 64, 64) for name in names)
    train = wire.TrainSpec(steps=numbers.steps, checkpoint_every=numbers.checkpoint_every)
    job = wire.Job(
        RUN, RUN, "builtin:tiny", train,
        (wire.DatasetSpec("instance", "instance", "data/instance", "x", pictures),), ("diffusers",),
    )  # fmt: skip
    home.job_file.write_bytes(wire.dumps(job))


@cache
def _template() -> RunSpec:
    return RunSpec(
        name=RUN,
        subject=Subject(instance_prompt="a photo"),
        data=Data(instance=Path("photos")),
        model=Model(base="builtin:tiny"),
        compute=Compute(provider="simulated", market="spot-then-on-demand"),
    )


def spec_of(output: Path, schedule: Schedule, max_cost_usd: float) -> RunSpec:
    deadline_s = schedule.training.deadline_s
    hours = None if deadline_s is None else deadline_s / 3600
    limits = Limits(max_cost_usd=max_cost_usd, max_hours=hours, keep_minutes=schedule.keep_minutes)
    stored = Storage(url=SimulatedStore.url) if schedule.storage else Storage()
    return _template().model_copy(update={"output": Output(folder=output), "limits": limits, "storage": stored})
