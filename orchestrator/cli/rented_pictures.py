"""`generate --where rented`: the quote, the question, the run that makes the pictures, and what it cost."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from orchestrator.cli.driving import drive_to_end
from orchestrator.cli.render.live import reporter_for
from orchestrator.cli.render.summary import Summary
from orchestrator.finished_model import FinishedModel
from orchestrator.lifecycle import EndReason
from orchestrator.picture_planning import PicturePlan, accept_pictures, plan_pictures
from orchestrator.picture_run import RentalWish
from orchestrator.plan_json import plain
from orchestrator.ranges import usd
from orchestrator.spec import RunSpec
from orchestrator.wiring import Wiring
from remote_trainer import wire


@dataclass(frozen=True)
class Rented:
    """How it ended. `made` is empty unless all went well."""

    summary: Summary
    made: tuple[wire.FileEntry, ...]


def on_rented_machine(
    wiring: Wiring,
    trained: RunSpec,
    model: FinishedModel,
    wanted: wire.PictureJob,
    folder: Path,
    wish: RentalWish,
    *,
    yes: bool,
    as_json: bool,
) -> Rented | None:
    """Quotes, asks, and drives the run to its end. None when the quote was declined: nothing was rented then.

    Ctrl-C as in `launch`: what is rented is given back. Raises as `plan_pictures` and `drive_to_end` do.
    """
    plan = plan_pictures(wiring, trained, model, wanted, folder, wish)
    _show(plan, as_json)
    question = f"Start, for up to {usd(plan.rental.ceiling_usd)}?"
    if not (yes or as_json) and sys.stdin.isatty() and not click.confirm(question, default=False, err=True):
        return None
    accept_pictures(wiring, plan)
    name = plan.spec.name
    with reporter_for(as_json, lambda: wiring.cost_usd(name)) as reporter:
        summary = drive_to_end(wiring, name, reporter)
    if summary.reason != EndReason.DONE.value:
        return Rented(summary, ())
    manifest = wire.Manifest.from_bytes((folder / wire.MANIFEST_NAME).read_bytes())
    return Rented(summary, _grid_last(manifest.files))


def _grid_last(files: tuple[wire.FileEntry, ...]) -> tuple[wire.FileEntry, ...]:
    """Base before trained for each seed, as they are made."""
    return tuple(sorted(files, key=lambda entry: (entry.path == "grid.png", not entry.path.endswith("-base.png"))))


def _show(plan: PicturePlan, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"type": "quote", "run": plan.spec.name, **plain(plan.rental)}))
        return
    for line in plan.lines():
        click.echo(line, err=True)
