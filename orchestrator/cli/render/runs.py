"""Runs as values, as JSON and as tables: what `ps` and `status` show."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.budget import may_bill
from orchestrator.cli.render.events import span
from orchestrator.cli.render.files import artifacts_on_disk, pictures_folder
from orchestrator.driver import is_driven
from orchestrator.hints import hint_for
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
    bills_per_hour_usd: float
    """What they cost together, now."""
    stopped: bool
    """Only the disks of stopped machines are billed."""
    cost_usd: float

    @property
    def unattended(self) -> bool:
        """Goes on, or waits, and no process of this machine carries it."""
        return self.state != State.ENDED.value and not self.driven


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
        bills_per_hour_usd=round(sum(machine.rate_usd for machine in may_bill(machines)), 4),
        stopped=bool(may_bill(machines)) and all(machine.stopped for machine in may_bill(machines)),
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
        failure_hint=hint_for(run.name, progress.failed.hint) if progress.failed and progress.failed.hint else None,
        moves=tuple(wiring.ledger.moves(run.name)),
        artifacts=artifacts_on_disk(wiring, run.name),
        pictures=pictures_folder(wiring, run.name),
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
    table.add_column("RUN", overflow="fold")
    table.add_column("STATE")
    something_bills = any(run.may_bill for run in runs)
    for title in (*(("BILLS",) if something_bills else ()), "STEP", "LOSS", "COST", "WHERE", "AGE"):
        table.add_column(title, no_wrap=True)
    runs = sorted(runs, key=lambda run: (not run.may_bill, not run.machines_held, -run.created_at))
    for run in runs:
        steps = f"{run.step}/{run.steps}" if run.steps else "-"
        loss = f"{run.loss:.4f}" if run.loss is not None else "-"
        age = span(time.time() - run.created_at)
        bills = (_bills(run),) if something_bills else ()
        table.add_row(escape(run.run), _state(run), *bills, steps, loss, f"${run.cost_usd:.2f}", run.provider, age)
    console.print(table, highlight=False)
    if unattended := [run for run in runs if run.unattended]:
        console.print("\nunattended: no process of this machine follows it. To take it up where it is:")
        for run in unattended:
            _print_whole(console, f"  {_attach(run)}")


def render_status(run: RunView, status: StatusView, console: Console) -> None:
    """Legible without color; says nothing about what is not known. No line is wrapped: paths are there to be copied."""
    facts = list(_facts(run, status))
    width = max(len(label) for label, _ in facts)
    _print_whole(console, f"[bold]{escape(run.run)}[/]")
    for label, value in facts:
        _print_whole(console, f"[dim]{label:<{width}}[/]  {value}")


def _facts(run: RunView, status: StatusView) -> Iterator[tuple[str, str]]:
    yield "state", _state(run) + (f": `{_attach(run)}` takes it up" if run.unattended else "")
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
    bills = f", bills {_bills(run)}{' for its stopped disk' if run.stopped else ''}" if run.may_bill else ""
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


def _print_whole(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, emoji=False)


def _state(run: RunView) -> str:
    if run.state == State.ENDED.value:
        return f"[{'green' if run.reason == 'done' else 'yellow'}]{run.reason}[/]"
    return run.state + (", [yellow]unattended[/]" if run.unattended else "")


def _bills(run: RunView) -> str:
    """By the day where only disks are billed."""
    if not run.may_bill:
        return "-"
    told = f"${run.bills_per_hour_usd * 24:.2f}/day" if run.stopped else f"${run.bills_per_hour_usd:.2f}/h"
    return f"[red]{told}[/]"


def _attach(run: RunView) -> str:
    return f"cloudbooth attach {escape(run.run)}"
