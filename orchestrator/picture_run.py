"""Pictures as a run of their own, on a machine that is rented for them: its spec, its record, its work. Pure.

Such a run is driven as any other: intent, ceiling, guard, recovery and release are the same. It ships a finished model
in place of photos, its supervisor makes pictures in place of training, and its output is a folder of them. What makes
it one stands in its job (`wire.Job.pictures`) and, for this computer alone, in the ledger beside it (`PictureRecord`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.finished_model import FinishedModel
from orchestrator.picture_work import PictureWork, picture_work
from orchestrator.spec import Compute, Limits, Model, Output, RunSpec, Subject
from orchestrator.spec_data import Data
from providers.api import Market
from remote_trainer import wire

PICTURES_MAX_COST_USD = 1.0
"""The ceiling where none is given: twenty minutes of the dearest single GPU, hours of a usual one."""
WAIT_FOR_LAPTOP_MINUTES = 10.0
"""How long a machine waits with pictures for a laptop that is away: making them again costs cents."""
_OWN = ("local", "ssh")
_LONGEST_STEM = 48


@dataclass(frozen=True)
class RentalWish:
    """What the user says of the machine; None leaves it to the run that trained the model, or to the provider."""

    provider: str | None = None
    gpus: tuple[str, ...] = ()
    market: Market = Market.ON_DEMAND
    max_price_per_hour_usd: float | None = None
    max_cost_usd: float = PICTURES_MAX_COST_USD


@dataclass(frozen=True)
class PictureRecord:
    """Kept in the ledger where other runs have their plan."""

    of: str
    """The run that trained the model."""
    folder: str
    """Where the pictures go on this computer."""
    model_bytes: int
    carried_bytes: int
    """Of a base that lies on this computer."""
    pipeline: str = ""
    """The diffusers class of the base, where it is known."""

    def work(self, wanted: wire.PictureJob) -> PictureWork:
        return picture_work(wanted, self.model_bytes, self.carried_bytes, self.pipeline)

    def to_data(self) -> dict[str, Any]:
        return asdict(self)


def picture_record(plan_json: str) -> PictureRecord | None:
    """None for a run that trains."""
    with suppress(ValueError, KeyError, TypeError):
        return PictureRecord(**json.loads(plan_json)["pictures"])
    return None


def renting_provider(spec: RunSpec, wish: RentalWish, takes_jobs: Callable[[str], bool]) -> str:
    """Whom to ask: the one that is named, else the one that trained the model if it rents, else all of them."""
    trained_by = spec.compute.provider
    return wish.provider or ("any" if trained_by in _OWN or takes_jobs(trained_by) else trained_by)


def picture_run_name(run: str, is_taken: Callable[[str], bool]) -> str:
    """`my-dog-pictures-1`, or the first number that is free."""
    stem = run[:_LONGEST_STEM].rstrip(".-_")
    return next(name for number in itertools.count(1) if not is_taken(name := f"{stem}-pictures-{number}"))


def picture_spec(
    trained: RunSpec, model: FinishedModel, work: PictureWork, wish: RentalWish, provider: str, name: str, folder: Path
) -> RunSpec:
    """The spec of a run that makes pictures. Whom to trust, and whether a CPU will do, is as the model's run has it.

    One GPU, as large as the pictures need. A stopped disk is kept for none of it.
    """
    same = trained.compute.provider == provider
    limit = wish.max_price_per_hour_usd
    return RunSpec(
        name=name,
        subject=Subject(instance_prompt=trained.subject.instance_prompt),
        data=Data(instance=model.folder),
        model=Model(base=model.base, config=model.base_config),
        train=wire.TrainSpec(steps=1),
        compute=Compute(
            provider=provider,
            market="spot" if wish.market is Market.SPOT else "on-demand",
            gpu=wish.gpus,
            min_vram_gb=0.0 if wish.gpus else work.needed_vram_gb,
            disk_gb=work.needed_disk_gb,
            max_price_per_hour=limit if limit is not None or not same else trained.compute.max_price_per_hour,
            trust=trained.compute.trust,
            allow_cpu=trained.compute.allow_cpu,
        ),
        limits=Limits(
            max_cost_usd=wish.max_cost_usd, rescue_hours=0.0, wait_for_laptop_minutes=WAIT_FOR_LAPTOP_MINUTES
        ),
        output=Output(folder=folder.parent),
    )


def model_files(model: Path) -> list[Path]:
    """What travels of a trained model: a file, or everything in a folder."""
    return [model] if model.is_file() else sorted(path for path in model.rglob("*") if path.is_file())
