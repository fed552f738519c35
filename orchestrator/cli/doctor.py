"""`doctor`: every prerequisite, each with what to do about it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from orchestrator import doctor as checks
from orchestrator.base_model import DEFAULT_ENDPOINT
from orchestrator.cli.options import json_option
from orchestrator.doctor import Finding, Verdict
from orchestrator.errors import ExitCode
from orchestrator.spec import RunSpec
from orchestrator.spec_file import load_spec
from orchestrator.wiring import Wiring, wire_up
from providers.registry import installed_providers

_SPEC = click.Path(path_type=Path)
_STYLES = {Verdict.GOOD: "green", Verdict.DOUBTFUL: "yellow", Verdict.BAD: "bold red", Verdict.UNCHECKED: "dim"}


@click.command(epilog="Example: cloudbooth doctor my-dog.toml")
@click.argument("spec_file", metavar="[SPEC]", required=False, type=_SPEC)
@json_option
def doctor(spec_file: Path | None, as_json: bool) -> int:
    """Check everything a run needs, and rent nothing.

    Looks at this installation, the clock, the hub's token and every installed provider; with a SPEC only at
    the provider that it names. Exit code 2 when something is bad.
    """
    spec = None if spec_file is None else load_spec(spec_file)
    console = Console()
    bad = 0
    for finding in _findings(wire_up(), spec):
        bad += finding.verdict is Verdict.BAD
        if as_json:
            click.echo(json.dumps({"type": "finding", **asdict(finding), "verdict": finding.verdict.value}))
        else:
            _show(finding, console)
    if as_json:
        click.echo(json.dumps({"type": "summary", "bad": bad}))
    return int(ExitCode.USAGE) if bad else 0


def _findings(wiring: Wiring, spec: RunSpec | None) -> Iterator[Finding]:
    """One after the other, so that the first is on the screen before the last is asked for."""
    endpoint = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    yield from chain(
        checks.packages(),
        checks.state_folder(wiring.home.root),
        checks.bills(wiring.ledger),
        checks.ssh_client(),
        checks.this_machine(),
        checks.clock(endpoint, wiring.clock.now()),
        checks.hub_token(endpoint, os.environ.get("HF_TOKEN")),
    )
    if spec is None:
        for name in installed_providers():
            if name not in _WITHOUT_AN_ACCOUNT:
                yield from checks.provider(name, partial(wiring.provider_named, name))
        return
    yield from checks.provider(spec.compute.provider, partial(wiring.provider, spec))


_WITHOUT_AN_ACCOUNT = ("any", "local", "ssh")
"""The first stands for all others; the others need a spec, or nothing."""


def _show(finding: Finding, console: Console) -> None:
    """A mark that is legible without color, the fact, and below it the hint."""
    word = f"[{_STYLES[finding.verdict]}]{finding.verdict.value:<9}[/]"
    console.print(f"{word}  {escape(finding.what)}: {escape(finding.fact)}", highlight=False, soft_wrap=True)
    if finding.hint and finding.verdict is not Verdict.GOOD:
        console.print(f"           hint: {escape(finding.hint)}", highlight=False, soft_wrap=True)
