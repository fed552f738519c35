"""`plan` and `launch`: from photos or a spec to a plan, and from an accepted plan to a run."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.carriers import as_told, detach
from orchestrator.cli.driving import drive_to_end
from orchestrator.cli.options import (
    json_option,
    log_to_option,
    notify_option,
    of_profile,
    plain_option,
    profile_option,
    wanted_targets,
)
from orchestrator.cli.render.job_plan import render_job_plan
from orchestrator.cli.render.live import board_of, reporter_for
from orchestrator.cli.render.plan import render_plan
from orchestrator.cli.render.summary import tell
from orchestrator.cli.tracking import remember_targets
from orchestrator.errors import UsageError
from orchestrator.hosted.plan import JobPlan, job_plan_to_data
from orchestrator.hosted.planning import accept_job, look_up_job
from orchestrator.keeping import kept_by
from orchestrator.plan import Plan
from orchestrator.plan_json import plan_to_data
from orchestrator.planning import accept, look_up, require_room
from orchestrator.ranges import usd
from orchestrator.spec import RunSpec
from orchestrator.spec_file import load_spec, spec_from_photos
from orchestrator.subject_words import subject_words
from orchestrator.wiring import Wiring, is_hosted, wire_up
from providers.errors import CloudboothError
from remote_trainer.wire import Warned


def _spec_options(function: Any) -> Any:
    """What describes a run; the same for `plan` and `launch`."""
    for option in reversed(
        (
            click.argument("what", metavar="SPEC|PHOTOS", type=click.Path(path_type=Path)),
            click.option(
                "--subject",
                metavar="WORDS",
                help='What the photos in a folder show: a rare word, then the kind of thing, "sks dog".',
            ),
            click.option("--name", metavar="NAME", help="Name of the run and of the model."),
            profile_option,
            click.option("--provider", metavar="NAME", help="Where to train: local, ssh, one that rents, or any."),
            click.option(
                "--host", metavar="[USER@]HOST", help="Train there, over SSH; an alias of ~/.ssh/config will do."
            ),
            click.option(
                "--on",
                "standing",
                metavar="RUN|PROVIDER:ID",
                help="Use the machine that a run keeps, or a rented one of yours, as it stands; it is left running.",
            ),
            click.option(
                "--keep", metavar="30m", help="Keep the rented machine for the next run after this one, for so long."
            ),
            click.option(
                "--steps", type=int, metavar="N", help="How many steps to train; 1000 when nothing says otherwise."
            ),
            click.option(
                "--gpu",
                "gpus",
                multiple=True,
                metavar="NAME",
                help="Rent this GPU; again for a second choice.",
            ),
            click.option(
                "--spot", "market", flag_value="spot", help="Rent what is cheaper and may be taken away at any moment."
            ),
            click.option(
                "--on-demand", "market", flag_value="on-demand", help="Rent what stays until it is given back."
            ),
            click.option(
                "--max-price", type=float, metavar="USD", help="Rent nothing that costs more than this an hour."
            ),
            click.option(
                "--max-cost", type=float, metavar="USD", help="The most that the run may cost, all machines together."
            ),
            click.option("--max-hours", type=float, metavar="H", help="The longest that the run may be at work."),
            click.option(
                "--ship-originals",
                is_flag=True,
                help="Send photos with their own pixels, still without metadata, and scale them on the machine.",
            ),
            click.option(
                "--pod-credentials",
                is_flag=True,
                help="Hand the store's keys to the machine. Only for stores that cannot presign.",
            ),
            click.option(
                "--set",
                "overrides",
                multiple=True,
                metavar="KEY=VALUE",
                help="Set any key of the spec (docs/spec.md), as often as you like: train.batch_size=2.",
            ),
        )
    ):
        function = option(function)
    return function


@click.command(epilog="Example: cloudbooth plan my-dog.toml --set train.steps=800")
@_spec_options
@json_option
def plan(what: Path, as_json: bool, **options: Any) -> int:
    """Show everything a launch would do, and start nothing.

    Give a spec (a TOML file), or a folder of photos together with --subject. Photos, sizes, steps, price and what was
    decided for you are printed. Needs neither torch nor an account.
    """
    return _only_plan(wire_up(), _spec(what, **options), as_json)


@click.command(epilog='Example: cloudbooth launch photos/ --subject "sks dog" --host me@gpu-box')
@_spec_options
@click.option("--dry-run", is_flag=True, help="Print the plan and stop; the same as `plan`.")
@click.option("--detach", "in_background", is_flag=True, help="Go on in the background and return.")
@click.option("--yes", "-y", is_flag=True, help="Start without asking.")
@notify_option
@log_to_option
@plain_option
@json_option
def launch(what: Path, dry_run: bool, in_background: bool, yes: bool, as_json: bool, **options: Any) -> int:
    """Train a model from photos: plan, confirm, run.

    Give a spec (a TOML file), or a folder of photos together with --subject. Everything that can be checked for free
    is checked before anything starts. Ctrl-C once stops with a checkpoint, twice without one.
    """
    wiring = wire_up()
    spec = _spec(what, **options)
    if dry_run:
        return _only_plan(wiring, spec, as_json)
    planned = _look_up(wiring, spec)
    require_room(wiring, spec)
    _show(planned, as_json)
    if not (yes or as_json) and sys.stdin.isatty() and not _agreed(planned):
        return 0
    if isinstance(planned, JobPlan):
        accept_job(wiring, spec, planned)
    else:
        accept(wiring, spec, planned)
    remember_targets(wiring.home.run(spec.name), wanted_targets())
    if in_background:
        return _say_detached(wiring, spec, as_json)
    with reporter_for(as_json, lambda: wiring.cost_usd(spec.name), lambda: board_of(wiring, spec.name)) as reporter:
        summary = drive_to_end(wiring, spec.name, reporter)
    return tell(summary, as_json)


def _agreed(planned: Plan | JobPlan) -> bool:
    """Enter alone starts what is free; what costs money wants a `y`."""
    if isinstance(planned, JobPlan):
        return click.confirm(f"\nStart, for up to {usd(planned.limit_s * planned.quote.usd_per_s)}?", default=False)
    if planned.rental is None:
        return click.confirm("\nStart?", default=True)
    return click.confirm(f"\nStart, for up to {usd(planned.rental.ceiling_usd)}?", default=False)


def _spec(
    what: Path,
    subject: str | None,
    name: str | None,
    provider: str | None,
    host: str | None,
    standing: str | None,
    keep: str | None,
    steps: int | None,
    gpus: tuple[str, ...],
    market: str | None,
    max_price: float | None,
    max_cost: float | None,
    max_hours: float | None,
    ship_originals: bool,
    pod_credentials: bool,
    overrides: tuple[str, ...],
    profile: str | None,
) -> RunSpec:
    """Flags are `--set` in other words; a `--set` of the same key wins. Both win over the profile's."""
    if host and provider not in (None, "ssh"):
        raise UsageError(f"--host is for the provider ssh, not for {provider}", "leave out one of the two")
    on_provider, machine = _standing(standing, provider, host)
    short: dict[str, str | float | tuple[str, ...] | None] = {
        "name": name,
        "compute.provider": provider or on_provider or ("ssh" if host else None),
        "compute.machine": machine,
        "limits.keep_minutes": None if keep is None else _minutes(keep),
        "compute.ssh.host": host,
        "compute.gpu": gpus or None,
        "compute.market": market,
        "compute.max_price_per_hour": max_price,
        "limits.max_cost_usd": max_cost,
        "limits.max_hours": max_hours,
        "data.ship_originals": True if ship_originals else None,
        "storage.pod_credentials": True if pod_credentials else None,
        "train.steps": steps,
    }
    flags = [f"{key}={json.dumps(value)}" for key, value in short.items() if value is not None]
    all_overrides = (*of_profile(profile), *flags, *overrides)
    if not subject:
        return load_spec(what, all_overrides)
    spec = spec_from_photos(what, subject, all_overrides)
    if decided := subject_words(subject).decided:
        click.echo(f"subject: {subject_words(subject)} ({decided})", err=True)
    return spec


def _standing(standing: str | None, provider: str | None, host: str | None) -> tuple[str | None, str | None]:
    """Provider and id of `--on`: as they are given, or of the machine that the named run keeps."""
    if standing is None:
        return None, None
    name, colon, machine = standing.partition(":")
    if not colon:
        kept = kept_by(wire_up().ledger, standing)
        name, machine = kept.provider, str(kept.machine_id)
    if not name or not machine:
        raise UsageError(f'--on takes a run, or a provider and an id, is "{standing}"', "--on runpod:POD_ID")
    if host or provider not in (None, name):
        raise UsageError("--on names provider and machine by itself", "leave out --host and --provider")
    return name, machine


def _minutes(text: str) -> float:
    """`90s`, `30m`, `1.5h`; a bare number is minutes."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text.strip())
    if found is None:
        raise UsageError(f'--keep takes a time, is "{text}"', "--keep 30m")
    return float(found[1]) * {"s": 1 / 60, "m": 1.0, "": 1.0, "h": 60.0}[found[2]]


def _only_plan(wiring: Wiring, spec: RunSpec, as_json: bool) -> int:
    """What would keep a launch from starting is a warning here: a plan needs no room."""
    planned = _look_up(wiring, spec)
    try:
        require_room(wiring, spec)
    except CloudboothError as error:
        planned = replace(planned, warnings=(*planned.warnings, Warned(error.message, error.hint)))
    _show(planned, as_json)
    if as_json:
        click.echo(json.dumps({"type": "summary", "run": planned.name, "started": False}))
    return 0


def _look_up(wiring: Wiring, spec: RunSpec) -> Plan | JobPlan:
    return look_up_job(wiring, spec) if is_hosted(spec) else look_up(wiring, spec)


def _show(planned: Plan | JobPlan, as_json: bool) -> None:
    if as_json:
        data = job_plan_to_data(planned) if isinstance(planned, JobPlan) else plan_to_data(planned)
        click.echo(json.dumps({"type": "plan", **data}))
        return
    from rich.console import Console

    if isinstance(planned, JobPlan):
        render_job_plan(planned, Console())
    else:
        render_plan(planned, Console())


def _say_detached(wiring: Wiring, spec: RunSpec, as_json: bool) -> int:
    run = spec.name
    handed = detach(wiring, run, partial(click.echo, err=True))
    if as_json:
        facts = {"detached": True, "driver_pid": handed.pid, "starting": bool(handed.starting)}
        click.echo(json.dumps({"type": "summary", "run": run, **facts}))
        return 0
    click.echo(as_told(run, handed))
    click.echo(
        "it trains on this machine: asleep, it does not; after a reboot `cloudbooth resume` goes on"
        if spec.compute.provider == "local"
        else "the machine trains by itself: closing the lid only keeps what it makes from coming home meanwhile"
    )
    click.echo(f"watch it with `cloudbooth attach {run}`, end it with `cloudbooth stop {run}`")
    return 0
