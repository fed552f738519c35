"""How a run ended: as a value, as lines for people, as the last JSON object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.render.files import artifacts_on_disk
from orchestrator.errors import ExitCode
from orchestrator.hints import hint_for
from orchestrator.lifecycle import EXIT_CODES, EndReason
from orchestrator.mirror import progress_of_run
from orchestrator.picture_run import picture_record
from orchestrator.wiring import Wiring
from remote_trainer import wire

BEFORE_AFTER = "before-after.png"
"""As `remote_trainer.export.output` names it."""


@dataclass(frozen=True)
class Summary:
    run: str
    reason: str
    exit_code: int
    step: int
    steps: int
    cost_usd: float
    output: str | None
    """Folder of the finished model."""
    checkpoint: str | None
    """The newest checkpoint on the laptop; only when the run did not finish."""
    evaluations: tuple[wire.Evaluated, ...]
    learned: bool | None = None
    """Whether the mean loss on the fixed set fell from the first look to the last; None with fewer than two."""
    message: str = ""
    hint: str = ""
    made_pictures: bool = False
    """Nothing was trained: `output` holds pictures of a model that another run trained."""
    before_after: str | None = None
    """The picture that shows every validation prompt before and after training."""

    def to_data(self) -> dict[str, Any]:
        return {"type": "summary", **asdict(self)}

    def lines(self) -> list[str]:
        """For people, most important first."""
        at = "" if self.made_pictures else f" at step {self.step} of {self.steps}"
        told = [f"{self.run}: {self.reason}{at}, cost ${self.cost_usd:.2f}"]
        if self.message:
            told.append(f"error: {self.message}")
        if self.learned is not None:
            first, last = self.evaluations[0], self.evaluations[-1]
            told.append(f"mean loss on the fixed set: {first.mean_loss:.4f} → {last.mean_loss:.4f}")
        if self.learned is False and self.reason == EndReason.DONE.value:
            told.append(
                "warning: that loss did not fall, so nothing was learned: "
                "try more steps, or another rate with `--set train.learning_rate=…`"
            )
        if self.output:
            told.append(f"{'pictures' if self.made_pictures else 'model'}: {self.output}")
        if self.before_after:
            told.append(f"before and after: {self.before_after}")
        if self.checkpoint:
            told.append(f"newest checkpoint: {self.checkpoint}")
        if self.hint:
            told += ["", f"hint: {self.hint}"]
        return told


def summarize(wiring: Wiring, run_name: str, reason: EndReason) -> Summary:
    """Reads ledger and mirror; asks no host."""
    progress = progress_of_run(wiring.home.run(run_name))
    artifacts = artifacts_on_disk(wiring, run_name)
    outputs = [a.folder for a in artifacts if a.kind == "output"]
    checkpoints = [a.folder for a in artifacts if a.kind == "checkpoint"]
    finished = reason is EndReason.DONE
    failed = progress.failed if reason is EndReason.TRAINING_FAILED else None
    where = "continues from the newest checkpoint" if checkpoints else "begins anew: no checkpoint came home"
    pictures = picture_record(wiring.ledger.run(run_name).plan_json) is not None
    where = "makes the pictures" if pictures else where
    hint = "" if finished else f"`cloudbooth resume {run_name}` {where}"
    return Summary(
        run=run_name,
        reason=reason.value,
        exit_code=int(EXIT_CODES.get(reason, ExitCode.INTERNAL)),
        step=progress.step,
        steps=progress.of,
        cost_usd=round(wiring.cost_usd(run_name), 4),
        output=outputs[-1] if finished and outputs else None,
        checkpoint=checkpoints[-1] if not finished and checkpoints else None,
        evaluations=progress.evaluations,
        learned=loss_fell(progress.evaluations),
        message=failed.message if failed else "",
        hint=hint_for(run_name, failed.hint) if failed and failed.hint else hint,
        made_pictures=pictures,
        before_after=_before_after(outputs[-1]) if finished and outputs else None,
    )


def _before_after(output: str) -> str | None:
    picture = Path(output) / BEFORE_AFTER
    return str(picture) if picture.is_file() else None


def loss_fell(evaluations: Sequence[wire.Evaluated]) -> bool | None:
    """The fixed set is the same pictures, noise and timesteps every time: a difference is no chance. None: unknown."""
    if not evaluations or evaluations[-1].step <= evaluations[0].step:
        return None
    return evaluations[-1].mean_loss < evaluations[0].mean_loss


def tell(summary: Summary, as_json: bool) -> int:
    """Prints how the run ended, as the last thing a verb says; returns the exit code that goes with it."""
    click.echo(json.dumps(summary.to_data()) if as_json else "\n" + "\n".join(summary.lines()))
    return summary.exit_code
