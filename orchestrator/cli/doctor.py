"""`doctor`: every prerequisite, each with what to do about it."""

from __future__ import annotations

import json
import os
import sys
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
from orchestrator.cli.options import Amount, json_option, of_profile, profile_option
from orchestrator.cli.render.live import reporter_for
from orchestrator.doctor import Finding, Verdict
from orchestrator.driver_lock import driver_lock
from orchestrator.errors import ExitCode, UsageError
from orchestrator.fire_drill import conduct, drill_spec, keep
from orchestrator.hosted.plan import job_wish
from orchestrator.plan import StandingMachine
from orchestrator.preflight import look_at_machine
from orchestrator.spec import RunSpec, spec_to_json
from orchestrator.spec_file import load_spec
from orchestrator.storage.open import open_store, require_writable
from orchestrator.wiring import Wiring, is_hosted, wire_up
from providers.api import GpuRequest, HasStandingMachine
from providers.errors import NoCapacity
from providers.registry import installed_job_providers, installed_providers

_SPEC = click.Path(path_type=Path)
_STYLES = {Verdict.GOOD: "green", Verdict.DOUBTFUL: "yellow", Verdict.BAD: "bold red", Verdict.UNCHECKED: "dim"}


@click.command(epilog="Example: cloudbooth doctor my-dog.toml")
@click.argument("spec_file", metavar="[SPEC]", required=False, type=_SPEC)
@click.option("--fire-drill", "drilled", metavar="PROVIDER", help="Rent its cheapest machine and let that end itself.")
@click.option(
    "--max-cost",
    type=Amount(0, min_open=True),
    default=0.5,
    show_default=True,
    metavar="USD",
    help="The most a drill may cost.",
)
@click.option("--yes", "-y", is_flag=True, help="Start the drill without asking.")
@profile_option
@json_option
def doctor(
    spec_file: Path | None, drilled: str | None, max_cost: float, yes: bool, profile: str | None, as_json: bool
) -> int:
    """Check everything a run needs, and rent nothing.

    Looks at this installation, the clock, the hub's token and every installed provider; with a SPEC only at
    the provider and the object storage that it names, and at an ssh host by logging in. Exit code 2 when something
    is bad.

    With --fire-drill it does rent, for a few minutes and cents: the cheapest machine of that provider, to prove that
    it lets us in, shows the host key made for it, accepts its own key, gives itself back, and is gone. Exit code 5
    when one of them fails.
    """
    if drilled is not None:
        return _drill(wire_up(), drilled, max_cost, yes, as_json)
    spec = None if spec_file is None else load_spec(spec_file, of_profile(profile))
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


def _drill(wiring: Wiring, provider: str, max_cost_usd: float, yes: bool, as_json: bool) -> int:
    built = wiring.provider_named(provider)
    if isinstance(built, HasStandingMachine):
        raise UsageError(f"{provider} rents nothing, so there is nothing to prove", "cloudbooth doctor")
    offers = built.offers(GpuRequest(disk_gb=10.0))
    if not offers:
        raise NoCapacity(f"{provider} has nothing for rent right now", "try again later")
    quote = f"{offers[0].gpu} at ${offers[0].price_per_hour_usd:.2f}/h for some minutes, ${max_cost_usd:.2f} at most"
    if not as_json:
        click.echo(quote)
    if not (yes or as_json) and sys.stdin.isatty() and not click.confirm("Start?", default=False):
        return 0
    name = f"fire-drill-{provider}-{int(wiring.clock.now())}"
    spec = drill_spec(provider, name, wiring.home.root, max_cost_usd)
    wiring.ledger.add_run(name, provider, spec_to_json(spec), "{}")
    with (
        driver_lock(wiring.home.run(name).driver_lock, name),
        reporter_for(as_json, lambda: wiring.cost_usd(name)) as told,
    ):
        drill = conduct(wiring.context(name, wiring.ledger.become_driver(name), told), told.note)
    keep(drill, wiring.provider_context(provider).state_folder)
    if as_json:
        click.echo(json.dumps({"type": "summary", "run": name, **asdict(drill), "passed": drill.passed}))
    else:
        click.echo(f"{'passed' if drill.passed else 'FAILED'}; cost ${drill.cost_usd:.4f}")
    return 0 if drill.passed else int(ExitCode.PROVIDER)


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
        for name in installed_job_providers():
            yield from checks.job_provider(name, partial(wiring.job_provider_named, name))
        return
    if is_hosted(spec):
        yield from checks.job_provider(spec.compute.provider, partial(wiring.job_provider, spec), job_wish(spec))
    else:
        yield from checks.provider(spec.compute.provider, partial(wiring.provider, spec))
        yield from checks.machine(partial(_look, wiring, spec))
    if spec.storage.url is not None:
        store = open_store(spec.storage.url, spec.storage.endpoint_url)
        yield from checks.store(spec.storage.url, partial(require_writable, store))


def _look(wiring: Wiring, spec: RunSpec) -> StandingMachine | None:
    return look_at_machine(wiring.provider(spec), wiring.connect, 0)


_WITHOUT_AN_ACCOUNT = ("any", "local", "ssh")
"""The first stands for all others; the others need a spec, or nothing."""


def _show(finding: Finding, console: Console) -> None:
    """A mark that is legible without color, the fact, and below it the hint."""
    word = f"[{_STYLES[finding.verdict]}]{finding.verdict.value:<9}[/]"
    console.print(f"{word}  {escape(finding.what)}: {escape(finding.fact)}", highlight=False, soft_wrap=True)
    if finding.hint and finding.verdict is not Verdict.GOOD:
        console.print(f"           hint: {escape(finding.hint)}", highlight=False, soft_wrap=True)
