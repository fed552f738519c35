"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def run_argument(function: F) -> F:
    """RUN, the name of a known run, completed from the ledger."""
    return click.argument("run", metavar="RUN", shell_complete=_complete_run)(function)


def json_option(function: F) -> F:
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON, one object a line; the last is the summary."
    )(function)


def _complete_run(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from orchestrator.wiring import wire_up

    return [run.name for run in wire_up().ledger.runs() if run.name.startswith(incomplete)]
