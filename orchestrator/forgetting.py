"""Forgetting a run that is over: its folder and its rows in the ledger, after which its name is free.

Never while anything of it may bill, and never silently when something of it lies nowhere else. What it has put into
`output.folder` is the user's: it stays unless they say otherwise.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import RunConflict
from orchestrator.home import RunHome
from orchestrator.latecomers import RECHECK_S, latecomers
from orchestrator.ledger import ArtifactRecord, Ledger, MachineRecord, PredictionRecord, RunRecord
from orchestrator.lifecycle import Keeps, State
from orchestrator.progress import Progress
from orchestrator.recovery import kept_alone


@dataclass(frozen=True)
class Forgotten:
    """What goes with a run."""

    run: str
    folder: Path
    model: Path | None
    """The finished model's folder, if it is here."""
    loses: str
    """What exists nowhere else that is known, as a fact for people; empty when nothing does."""


def why_not(
    run: RunRecord, machines: Sequence[MachineRecord], predictions: Sequence[PredictionRecord], now: float
) -> RunConflict | None:
    """The reason for which a run must not be forgotten at `now` (Unix seconds), whatever its user says. Pure."""
    if run.state is not State.ENDED:
        return RunConflict(
            f"run `{run.name}` goes on: it is {run.state.value}", f"end it first: `cloudbooth stop {run.name}`"
        )
    if unconfirmed := [machine.tag for machine in machines if machine.absent_at is None]:
        return RunConflict(f"{', '.join(unconfirmed)} may still bill", "`cloudbooth gc` gives it back")
    if going_on := [prediction.tag for prediction in predictions if prediction.over_at is None]:
        return RunConflict(
            f"{', '.join(going_on)} may still bill", "it ends by itself: `cloudbooth ps` asks whether it has"
        )
    if expected := latecomers(machines, now):
        left_h = max(RECHECK_S - (now - machine.intent_at) for machine in expected) / 3600
        return RunConflict(
            f"{expected[0].provider} never answered for {expected[0].tag}: it may show up yet, and bill",
            f"every command looks for it; forget the run in {left_h:.0f} h",
        )
    return None


def what_goes(
    run: RunRecord, home: RunHome, progress: Progress, artifacts: Sequence[ArtifactRecord], *, lies_elsewhere: bool
) -> Forgotten:
    """Looks at the disk alone. `progress` is what all events of the run add up to.

    `lies_elsewhere`: what never came home may still be on a machine of the user's, on a volume or in a store.
    """
    model = next((Path(a.folder) for a in reversed(artifacts) if a.kind == "output" and Path(a.folder).is_dir()), None)
    told = progress.checkpoints if lies_elsewhere else ()
    steps = [a.step for a in artifacts if a.kind == "checkpoint" and Path(a.folder).is_dir()]
    newest = max([*steps, *(checkpoint.step for checkpoint in told)], default=0)
    loses = ""
    if lies_elsewhere and kept_alone(progress, artifacts, silence_s=0.0) is Keeps.MODEL:
        loses = f"the finished model of run `{run.name}` never came home"
    elif model is None and newest:
        loses = f"run `{run.name}` has no model here, and `resume` would go on from its checkpoint of step {newest}"
    return Forgotten(run.name, home.root, model, loses)


def forget(ledger: Ledger, home: RunHome, run: str, epoch: int) -> None:
    """Removes the run's folder, then its rows. Killed in between, it can be called again; twice is safe.

    To be called with the run's driver lock and its newest epoch: raises StaleDriver for an older one, and RunConflict
    when it has not ended after all.
    """
    if home.root.exists():
        shutil.rmtree(home.root)
    ledger.forget_run(run, epoch)
