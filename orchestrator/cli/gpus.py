"""`gpus`: what is for rent now, all configured providers side by side."""

from __future__ import annotations

import json
from pathlib import Path

import click

from orchestrator.cli.options import json_option, of_profile, profile_option
from orchestrator.errors import ExitCode, UsageError
from orchestrator.market import Listing, Refusal, ask_all, side_by_side
from orchestrator.measured import measured_speeds
from orchestrator.offers import gpu_requests, work_of
from orchestrator.plan_json import plain
from orchestrator.spec_file import load_spec, spec_from_photos
from orchestrator.wiring import Wiring, wire_up
from providers.api import GpuRequest, MachineProvider, Market
from providers.combined import configured_providers

MARKETS = {"spot": (Market.SPOT,), "on-demand": (Market.ON_DEMAND,), None: (Market.ON_DEMAND, Market.SPOT)}
USUAL_DISK_GB = 40.0
"""Prices include a disk; without a spec nobody knows which."""


@click.command(epilog="Example: cloudbooth gpus my-dog.toml --min-vram 24")
@click.argument("what", metavar="[SPEC|PHOTOS]", required=False, type=click.Path(path_type=Path))
@click.option("--subject", metavar="WORDS", help="What the photos in a folder show, as for `launch`.")
@click.option("--gpu", "gpus", multiple=True, metavar="NAME", help="Only GPUs of this name; as often as you like.")
@click.option("--min-vram", type=float, metavar="GB", help="Only GPUs with so much memory.")
@click.option("--provider", "names", multiple=True, metavar="NAME", help="Ask this provider; as often as you like.")
@click.option("--spot", "market", flag_value="spot", help="Only machines that may be taken away.")
@click.option("--on-demand", "market", flag_value="on-demand", help="Only machines that stay.")
@profile_option
@json_option
def gpus(
    what: Path | None,
    subject: str | None,
    gpus: tuple[str, ...],
    min_vram: float | None,
    names: tuple[str, ...],
    market: str | None,
    profile: str | None,
    as_json: bool,
) -> int:
    """Show what can be rented now, and for how much.

    Asks every provider whose key is set; rents nothing. With a spec, or a folder of photos and --subject, offers that
    the run does not fit on are left out, and those left are ordered by what the finished model is expected to cost
    there. Exit code 5 when no provider answered.
    """
    wiring = wire_up()
    spec = None
    if what is not None:
        overrides = [*of_profile(profile), *([f"compute.gpu={json.dumps(gpus)}"] if gpus else [])]
        spec = spec_from_photos(what, subject, overrides) if subject else load_spec(what, overrides)
    want = GpuRequest(gpus, disk_gb=USUAL_DISK_GB) if spec is None else gpu_requests(spec)[0]
    if min_vram is not None:
        want = GpuRequest(want.gpus, min_vram, want.disk_gb, secure_only=want.secure_only, gpu_count=want.gpu_count)
    providers, refusals = _providers(wiring, names)
    offers, failures = ask_all(providers, want, MARKETS[market])
    fitting = [offer for offer in offers if offer.vram_gb == 0 or offer.vram_gb >= want.min_vram_gb]
    measured = None if spec is None else measured_speeds(spec, wiring.ledger.runs(), wiring.home.run)
    listings = side_by_side(fitting, None if spec is None else work_of(spec), measured)
    _show(listings, [*failures, *refusals], MARKETS[market], as_json)
    answered = len(providers) - len(failures)
    return 0 if answered else int(ExitCode.PROVIDER)


def _providers(wiring: Wiring, names: tuple[str, ...]) -> tuple[dict[str, MachineProvider], list[Refusal]]:
    """Those that can be asked, and why the others cannot. Raises UsageError for a name that is not installed."""
    able, unable = configured_providers(wiring.provider_context)
    known = {*able, *unable}
    for name in names:
        if name not in known:
            raise UsageError(
                f'no provider "{name}" rents machines here', f"those that do: {', '.join(sorted(known)) or 'none'}"
            )
    chosen = set(names) or known
    refusals = [
        Refusal(name, error.message, error.hint, configured=False) for name, error in unable.items() if name in chosen
    ]
    return {name: provider for name, provider in able.items() if name in chosen}, refusals


def _show(listings: list[Listing], refusals: list[Refusal], markets: tuple[Market, ...], as_json: bool) -> None:
    if not as_json:
        from rich.console import Console

        from orchestrator.cli.render.gpus import render_listings

        render_listings(listings, refusals, markets, Console())
        return
    for listing in listings:
        click.echo(json.dumps({"type": "listing", **plain(listing)}))
    for refusal in refusals:
        click.echo(json.dumps({"type": "refusal", **plain(refusal)}))
    failed = [refusal.provider for refusal in refusals if refusal.configured]
    absent = [refusal.provider for refusal in refusals if not refusal.configured]
    click.echo(json.dumps({"type": "summary", "listings": len(listings), "failed": failed, "not_configured": absent}))
