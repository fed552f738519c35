"""`ps`: the list of runs. It loads little: it is called often, and by people who wait for it."""

from __future__ import annotations

import json

import click

from orchestrator.cli.options import json_option
from orchestrator.clock import SystemClock
from orchestrator.home import Home
from orchestrator.ledger import Ledger


@click.command(epilog="Example: cloudbooth ps")
@click.option("--all", "-a", "every", is_flag=True, help="Also what ended long ago.")
@json_option
def ps(every: bool, as_json: bool) -> int:
    """List runs, what may still cost money first.

    Of those that have ended the newest 50 are shown; --all and --json have them all.
    """
    from orchestrator.cli.render.run_list import SHOWN_RUNS, render_runs, run_to_json, view_runs

    home, clock = Home.of_environment(), SystemClock()
    ledger = Ledger(home.ledger_file, clock)
    runs, hidden = view_runs(ledger, home, clock.now(), ended_at_most=None if every or as_json else SHOWN_RUNS)
    ledger.close()
    if as_json:
        for run in runs:
            click.echo(run_to_json(run))
        click.echo(json.dumps({"type": "summary", "runs": len(runs)}))
        return 0
    from rich.console import Console

    render_runs(runs, hidden, Console())
    return 0
