"""The list of runs: as values, as JSON and as a table. What `ps` loads is what it needs, for it should be instant."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.budget import cost_usd, may_bill
from orchestrator.cli.render.spans import span
from orchestrator.driver_lock import is_driven
from orchestrator.home import Home
from orchestrator.ledger import Ledger, MachineRecord, RunRecord
from orchestrator.lifecycle import State
from orchestrator.newest_step import newest_step

SHOWN_RUNS = 50
"""Without `--all`, so many of those that have ended."""


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


def view_runs(ledger: Ledger, home: Home, now: float, *, ended_at_most: int | None = None) -> tuple[list[RunView], int]:
    """What may cost money first, then the newest; and how many more have ended. Asks no host.

    All that go on or may bill are in it, whatever `ended_at_most` says.
    """
    machines: dict[str, list[MachineRecord]] = {}
    for machine in ledger.every_machine():
        machines.setdefault(machine.run, []).append(machine)
    runs = ledger.runs_without_documents()
    over = [run for run in runs if run.state is State.ENDED and not may_bill(machines.get(run.name, []))]
    hidden = set() if ended_at_most is None else {run.name for run in over[ended_at_most:]}
    views = [view_run(home, run, machines.get(run.name, []), now) for run in runs if run.name not in hidden]
    return sorted(views, key=lambda run: (not run.may_bill, not run.machines_held, -run.created_at)), len(hidden)


def view_run(home: Home, run: RunRecord, machines: Sequence[MachineRecord], now: float) -> RunView:
    """`machines`: all of the run. Reads its lock, and the end of its event log."""
    step, steps, loss = newest_step(home.run(run.name)) or (0, 0, None)
    billed = may_bill(machines)
    return RunView(
        run=run.name,
        state=run.state.value,
        reason=run.reason.value if run.reason else None,
        driven=run.state is not State.ENDED and is_driven(home.run(run.name).driver_lock),
        step=step,
        steps=steps,
        loss=loss,
        provider=run.provider,
        attempt=run.attempt,
        created_at=run.created_at,
        ended_at=run.ended_at,
        machines_held=tuple(machine.tag for machine in machines if machine.absent_at is None),
        may_bill=tuple(machine.tag for machine in billed),
        bills_per_hour_usd=round(sum(machine.rate_usd for machine in billed), 4),
        stopped=bool(billed) and all(machine.stopped for machine in billed),
        cost_usd=round(cost_usd(machines, now), 4),
    )


def run_to_json(run: RunView) -> str:
    return json.dumps({"type": "run", **asdict(run)})


def render_runs(runs: Sequence[RunView], hidden: int, console: Console) -> None:
    """As they come. `hidden` is how many more have ended."""
    if not runs:
        console.print('no runs yet; `cloudbooth launch photos/ --subject "sks dog"` starts one', highlight=False)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("RUN", overflow="fold")
    table.add_column("STATE")
    something_bills = any(run.may_bill for run in runs)
    for title in (*(("BILLS",) if something_bills else ()), "STEP", "LOSS", "COST", "WHERE", "AGE"):
        table.add_column(title, no_wrap=True)
    for run in runs:
        steps = f"{run.step}/{run.steps}" if run.steps else "-"
        loss = f"{run.loss:.4f}" if run.loss is not None else "-"
        age = span(time.time() - run.created_at)
        bills = (bill_words(run),) if something_bills else ()
        table.add_row(escape(run.run), state_words(run), *bills, steps, loss, f"${run.cost_usd:.2f}", run.provider, age)
    console.print(table, highlight=False)
    if hidden:
        console.print(f"[dim]and {hidden} more that ended before: `cloudbooth ps --all`[/]", highlight=False)
    if unattended := [run for run in runs if run.unattended]:
        console.print("\nunattended: no process of this machine follows it. To take it up where it is:")
        for run in unattended:
            print_whole(console, f"  {attach_command(run)}")


def state_words(run: RunView) -> str:
    if run.state == State.ENDED.value:
        return f"[{'green' if run.reason == 'done' else 'yellow'}]{run.reason}[/]"
    return run.state + (", [yellow]unattended[/]" if run.unattended else "")


def bill_words(run: RunView) -> str:
    """By the day where only disks are billed."""
    if not run.may_bill:
        return "-"
    told = f"${run.bills_per_hour_usd * 24:.2f}/day" if run.stopped else f"${run.bills_per_hour_usd:.2f}/h"
    return f"[red]{told}[/]"


def attach_command(run: RunView) -> str:
    return f"cloudbooth attach {escape(run.run)}"


def print_whole(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, emoji=False)
