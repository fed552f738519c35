"""One run with its history and its files, as a value, as JSON and as lines: what `status` shows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.markup import escape

from orchestrator.cli.render.files import artifacts_on_disk, pictures_folder
from orchestrator.cli.render.run_list import RunView, attach_command, bill_words, print_whole, state_words
from orchestrator.cli.render.spans import span
from orchestrator.hints import hint_for
from orchestrator.ledger import ArtifactRecord, MoveRecord, RunRecord
from orchestrator.lifecycle import State
from orchestrator.mirror import progress_of_run
from orchestrator.wiring import Wiring
from remote_trainer import wire


@dataclass(frozen=True)
class StatusView:
    """One run with its history and its files; the keys of `status --json`, besides those of the run."""

    phase: str
    eta_s: float | None
    images_per_s: float | None
    evaluations: tuple[wire.Evaluated, ...]
    warnings: tuple[str, ...]
    failure: str | None
    failure_hint: str | None
    """What to do about it, to be pasted."""
    moves: tuple[MoveRecord, ...]
    artifacts: tuple[ArtifactRecord, ...]
    """Those that are on this laptop's disk now."""
    pictures: str | None
    """Folder of the validation pictures."""
    folder: str


def view_status(wiring: Wiring, run: RunRecord) -> StatusView:
    """Reads ledger and mirror; asks no host."""
    progress = progress_of_run(wiring.home.run(run.name))
    return StatusView(
        phase=progress.phase,
        eta_s=progress.eta_s,
        images_per_s=progress.images_per_s,
        evaluations=progress.evaluations,
        warnings=tuple(warning.message for warning in progress.warnings),
        failure=progress.failed.message if progress.failed else None,
        failure_hint=hint_for(run.name, progress.failed.hint) if progress.failed and progress.failed.hint else None,
        moves=tuple(wiring.ledger.moves(run.name)),
        artifacts=artifacts_on_disk(wiring, run.name),
        pictures=pictures_folder(wiring, run.name),
        folder=str(wiring.home.run(run.name).root),
    )


def status_to_json(run: RunView, status: StatusView) -> str:
    """One object with the keys of both."""
    return json.dumps({"type": "summary", **asdict(run), **asdict(status)}, default=lambda value: value.value)


def render_status(run: RunView, status: StatusView, console: Console) -> None:
    """Legible without color; says nothing about what is not known. No line is wrapped: paths are there to be copied."""
    facts = list(_facts(run, status))
    width = max(len(label) for label, _ in facts)
    print_whole(console, f"[bold]{escape(run.run)}[/]")
    for label, value in facts:
        print_whole(console, f"[dim]{label:<{width}}[/]  {value}")


def _facts(run: RunView, status: StatusView) -> Iterator[tuple[str, str]]:
    yield "state", state_words(run) + (f": `{attach_command(run)}` takes it up" if run.unattended else "")
    if run.steps:
        pace = f", {status.images_per_s:.1f} images/s" if status.images_per_s else ""
        left = f", {span(status.eta_s)} left" if status.eta_s and run.state == State.TRAINING.value else ""
        yield "step", f"{run.step} of {run.steps}{pace}{left}"
    if status.evaluations:
        yield "fixed-set loss", losses_over_steps(status.evaluations)
    if status.failure:
        yield "failure", escape(status.failure)
    if status.failure_hint:
        yield "hint", escape(status.failure_hint)
    yield "cost", f"${run.cost_usd:.2f}"
    bills = f", bills {bill_words(run)}{' for its stopped disk' if run.stopped else ''}" if run.may_bill else ""
    yield "machine", (", ".join(run.machines_held) or "none held") + bills
    for artifact in status.artifacts:
        yield artifact.kind, f"step {artifact.step}: {escape(artifact.folder)}"
    if status.pictures:
        yield "pictures", escape(status.pictures)
    for warning in status.warnings:
        yield "warning", escape(warning)
    yield "files", escape(status.folder)


def losses_over_steps(evaluations: Sequence[wire.Evaluated]) -> str:
    """The first, which the others are measured by, and the newest three."""
    first, *later = evaluations
    told = [f"{first.mean_loss:.4f} (step {first.step})"]
    told += [f"{e.mean_loss:.4f} ({e.step})" for e in later[-3:]]
    gap = " … " if len(later) > 3 else " → "
    return gap.join((told[0], " → ".join(told[1:]))) if later else told[0]
