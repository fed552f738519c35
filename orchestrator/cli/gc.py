"""`gc`: finds machines of this installation that no run answers for, shows them, asks, gives them back."""

from __future__ import annotations

import json
import sys

import click

from orchestrator.cli.options import json_option
from orchestrator.errors import ExitCode
from orchestrator.orphans import Orphan, find_orphans, tag_prefix
from orchestrator.wiring import Wiring, wire_up
from providers.api import Bills, HasStandingMachine
from providers.errors import CloudboothError


@click.command(epilog="Example: cloudbooth gc")
@click.option("--yes", "-y", is_flag=True, help="Give them back without asking.")
@json_option
def gc(yes: bool, as_json: bool) -> int:
    """Find rented machines that no run answers for, and give them back.

    Asks every provider whose key is set, and every one that a run of this installation has used. Touches only
    machines that carry this installation's mark. With --json, or where nobody can be asked, only --yes gives
    anything back. Exit code 5 when a provider could not be asked or refused.
    """
    wiring = wire_up()
    found: list[tuple[Bills, Orphan]] = []
    providers, unable = wiring.every_provider()
    silent = [f"{name}: {error.message}" for name, error in unable]
    for name, provider in providers:
        try:
            listed = provider.list(tag_prefix(wiring.ledger.installation))
        except CloudboothError as error:
            silent.append(f"{name}: {error.message}")
            continue
        orphans = find_orphans(name, listed, wiring.ledger.every_machine(), wiring.ledger.runs())
        seen = {orphan.machine.tag for _, orphan in found}  # `any` lists what its members list
        found += [(provider, orphan) for orphan in orphans if orphan.machine.tag not in seen]
    _show([orphan for _, orphan in found], silent, as_json)
    agreed = yes or (not as_json and sys.stdin.isatty() and found and click.confirm("\nGive them back?", default=True))
    if not silent and not as_json and all(isinstance(provider, HasStandingMachine) for _, provider in providers):
        click.echo("no provider that rents is set up here, so none was asked: `cloudbooth doctor` says what is missing")
    kept = [_give_back(wiring, provider, orphan, as_json) for provider, orphan in found] if agreed else []
    refused = [text for text in kept if text]
    if as_json:
        given_back = len(kept) - len(refused)
        summary = {"orphans": len(found), "given_back": given_back, "could_not_ask": silent, "refused": refused}
        click.echo(json.dumps({"type": "summary", **summary}))
    return int(ExitCode.PROVIDER) if silent or refused else 0


def _give_back(wiring: Wiring, provider: Bills, orphan: Orphan, as_json: bool) -> str:
    """Why the machine could not be given back; empty when it could. One failure does not keep the others.

    One that the ledger believes gone is shown as billing again until its absence is confirmed.
    """
    if any(machine.tag == orphan.machine.tag for machine in wiring.ledger.every_machine()):
        wiring.ledger.reopen(orphan.machine.tag, orphan.machine.id)
    try:
        provider.release(orphan.machine.id)
    except CloudboothError as error:
        click.echo(f"could not give back {orphan.machine.tag}: {error.message}", err=True)
        return f"{orphan.machine.tag}: {error.message}"
    if not as_json:
        click.echo(f"given back: {orphan.machine.tag}; the next command looks whether it is gone")
    return ""


def _show(orphans: list[Orphan], silent: list[str], as_json: bool) -> None:
    for orphan in orphans:
        machine = orphan.machine
        if as_json:
            click.echo(json.dumps({"type": "orphan", "provider": orphan.provider, "tag": machine.tag, "id": machine.id,
                                   "status": machine.status.value, "why": orphan.why,
                                   "price_per_hour_usd": machine.price_per_hour_usd}))  # fmt: skip
        else:
            click.echo(f"{machine.tag} on {orphan.provider} (${machine.price_per_hour_usd:.2f}/h): {orphan.why}")
    if not as_json:
        for text in silent:
            click.echo(f"could not ask {text}", err=True)
        if not orphans and not silent:
            click.echo("no machine without a run")
