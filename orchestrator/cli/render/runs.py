"""Runs as values, as JSON and as tables: what `ps` and `status` show."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.budget import may_bill
from orchestrator.cli.render.events import span
from orchestrator.driver import is_driven
from orchestrator.ledger import ArtifactRecord, MoveRecord, RunRecord
from orchestrator.lifecycle import State
from orchestrator.mirror import progress_of_run
from orchestrator.wiring import Wiring
from remote_trainer import wire


@dataclass(frozen=True)
class RunView:
    """One run as a list shows it; the keys of `ps --json`."""

    run: str
    state: str
    reason: str | None
    driven: bool
    """Whether a process of this machine drives it now."""
    step: int
    steps: int
    loss: float | None
    provider: str
    attempt: int
    created_at: float
    ended_at: float | None
    machines_held: tuple[str, ...]
    """Tags without a confirmed absence."""
    may_bill: tuple[str, ...]
    """Those of them that cost money."""
    cost_usd: float


@dataclass(frozen=True)
class StatusView:
    """One run with its history and its files; the keys of `status --json`, besides those of the run."""

    phase: str
    eta_s: float | None
    images_per_s: float | None
    evaluations: tuple[wire.Evaluated, ...]
    warnings: tuple[str, ...]
    failure: str | None
    moves: tuple[MoveRecord, ...]
    artifacts: tuple[ArtifactRecord, ...]
    folder: str


def view_run(wiring: Wiring, run: RunRecord) -> RunView:
    """Reads ledger and mirror; asks no host."""
    machines = wiring.ledger.machines(run.name)
    progress = progress_of_run(wiring.home.run(run.name))
    return RunView(
        run=run.name,
        state=run.state.value,
        reason=run.reason.value if run.reason else None,
        driven=run.state is not State.ENDED and is_driven(wiring.home.run(run.name).driver_lock),
        step=progress.step,
        steps=progress.of,
        loss=progress.loss,
        provider=run.provider,
        attempt=run.attempt,
        created_at=run.created_at,
        ended_at=run.ended_at,
        machines_held=tuple(machine.tag for machine in machines if machine.absent_at is None),
        may_bill=tuple(machine.tag for machine in may_bill(machines)),
        cost_usd=round(wiring.cost_usd(run.name), 4),
    )


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
        moves=tuple(wiring.ledger.moves(run.name)),
        artifacts=tuple(wiring.ledger.artifacts(run.name)),
        folder=str(wiring.home.run(run.name).root),
    )


def view_to_json(kind: str, *views: RunView | StatusView) -> str:
    """One object with the keys of all views."""
    data: dict[str, object] = {"type": kind}
    for view in views:
        data |= asdict(view)
    return json.dumps(data, default=lambda value: value.value)


def render_runs(runs: list[RunView], console: Console) -> None:
    """What may bill stands first, then the newest."""
    if not runs:
        console.print('no runs yet; `cloudbooth launch photos/ --subject "sks dog"` starts one', highlight=False)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("RUN", "STATE", "STEP", "LOSS", "COST", "WHERE", "AGE"):
        table.add_column(title)
    for run in sorted(runs, key=lambda run: (not run.may_bill, not run.machines_held, -run.created_at)):
        steps = f"{run.step}/{run.steps}" if run.steps else "-"
        loss = f"{run.loss:.4f}" if run.loss is not None else "-"
        age = span(time.time() - run.created_at)
        table.add_row(escape(run.run), _state(run), steps, loss, f"${run.cost_usd:.2f}", run.provider, age)
    console.print(table, highlight=False)


def render_status(run: RunView, status: StatusView, console: Console) -> None:
    """Legible without color; says nothing about what is not known."""
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("state", _state(run))
    if run.steps:
        pace = f", {status.images_per_s:.1f} images/s" if status.images_per_s else ""
        left = f", {span(status.eta_s)} left" if status.eta_s and run.state == State.TRAINING.value else ""
        facts.add_row("step", f"{run.step} of {run.steps}{pace}{left}")
    if status.evaluations:
        line = " → ".join(f"{e.mean_loss:.4f} (step {e.step})" for e in status.evaluations[-4:])
        facts.add_row("fixed-set loss", line)
    if status.failure:
        facts.add_row("failure", escape(status.failure))
    facts.add_row("cost", f"${run.cost_usd:.2f}")
    facts.add_row("machine", ", ".join(run.machines_held) or "none held")
    for artifact in status.artifacts:
        facts.add_row(artifact.kind, f"step {artifact.step}: {escape(artifact.folder)}")
    for warning in status.warnings:
        facts.add_row("warning", escape(warning))
    facts.add_row("files", escape(status.folder))
    console.print(f"[bold]{escape(run.run)}[/]", highlight=False)
    console.print(facts, highlight=False)


def _state(run: RunView) -> str:
    if run.state == State.ENDED.value:
        return f"[{'green' if run.reason == 'done' else 'yellow'}]{run.reason}[/]"
    return run.state + ("" if run.driven else " [yellow](nobody drives it: `attach`)[/]")
