"""Weights & Biases. Whether anything leaves this laptop is its own setting: `WANDB_MODE=offline` keeps all here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import wandb

from orchestrator.curves import Point
from orchestrator.trackers.api import TrackedRun
from providers.errors import CloudboothError

STEP = "train/step"
"""The axis: W&B's own counter only goes up, and pictures arrive later than the losses of their step."""


class WandbTracker:
    """Implements `orchestrator.trackers.api.Tracker`. One in a process."""

    def __init__(self, project: str, run: TrackedRun) -> None:
        team, _, name = project.rpartition("/")
        quiet = wandb.Settings(
            console="off",  # what this process prints is none of the run's
            disable_git=True,
            save_code=False,
            silent=True,
            x_disable_stats=True,  # of the laptop's processor, not of the GPU
            x_disable_machine_info=True,
        )
        with _own_words():
            self._run = wandb.init(
                project=name, entity=team or None, id=run.id, name=run.name, resume="allow", dir=str(run.folder),
                config=dict(run.settings), settings=quiet,
            )  # fmt: skip
            self._run.define_metric(STEP, hidden=True)
            self._run.define_metric("*", step_metric=STEP)

    def log(self, point: Point) -> None:
        with _own_words():
            self._run.log({**point.values, STEP: point.step})

    def show(self, step: int, name: str, picture: Path, caption: str) -> None:
        with _own_words():
            self._run.log({name: wandb.Image(str(picture), caption=caption), STEP: step})

    def close(self) -> None:
        with _own_words():
            self._run.finish()


@contextmanager
def _own_words() -> Iterator[None]:
    try:
        yield
    except (wandb.Error, OSError, ValueError) as error:
        raise CloudboothError(
            f"Weights & Biases: {str(error).strip().rstrip('.')}",
            "`wandb login`, or `export WANDB_MODE=offline` and `wandb sync` later",
        ) from None
