"""`status`, `logs`, `attach`: looking at runs without changing them (attach takes over where nobody drives)."""

from __future__ import annotations

import json
import shlex
import time
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from orchestrator import tensorboard as tensorboard_file
from orchestrator.cli.carriers import as_told, hand_over
from orchestrator.cli.driving import drive_to_end
from orchestrator.cli.options import (
    json_option,
    log_to_option,
    notify_option,
    optional_run_argument,
    plain_option,
    run_argument,
    wanted_targets,
)
from orchestrator.cli.render.events import describe, tells_enough_anew
from orchestrator.cli.render.live import board_of, reporter_for
from orchestrator.cli.render.run_list import view_run
from orchestrator.cli.render.runs import render_status, status_to_json, view_status
from orchestrator.cli.render.summary import summarize, tell
from orchestrator.cli.tracking import log_run, remember_targets
from orchestrator.curves import points
from orchestrator.driver_lock import is_driven
from orchestrator.errors import ExitCode, RunConflict, UsageError
from orchestrator.hints import hint_for
from orchestrator.lifecycle import State
from orchestrator.mirror import EventReader
from orchestrator.phases.retrieve import fetch_log
from orchestrator.progress import Progress
from orchestrator.reporter import Reporter, Silent
from orchestrator.spec import spec_from_json
from orchestrator.trackers.api import Kind, Target, named_project
from orchestrator.wiring import Wiring, is_hosted, wire_up
from remote_trainer import wire

WATCH_POLL_S = 0.3


@click.command(epilog="Example: cloudbooth status my-dog")
@run_argument
@json_option
def status(run: str, as_json: bool) -> int:
    """Show one run in detail: state, progress, machine, money, files."""
    wiring = wire_up()
    record = wiring.ledger.run(run)
    view = view_run(wiring.home, record, wiring.ledger.machines(run), wiring.clock.now())
    detail = view_status(wiring, record)
    if as_json:
        click.echo(status_to_json(view, detail))
    else:
        render_status(view, detail, Console())
    return 0


@click.command(epilog="Example: cloudbooth logs my-dog --trainer | tail -50")
@run_argument
@click.option("--follow", "-f", is_flag=True, help="Go on printing until the run has ended.")
@click.option("--all", "-a", "every", is_flag=True, help="Every step; 25 of them are printed otherwise.")
@click.option("--trainer", is_flag=True, help="The raw output of trainer and supervisor instead of the events.")
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write the curves into FOLDER/RUN for `tensorboard --logdir FOLDER` instead; with -f while they grow.",
)
@click.option("--wandb", metavar="PROJECT", help="Log curves and pictures to Weights & Biases instead; -f as above.")
@click.option("--trackio", metavar="PROJECT", help="The same for trackio.")
@json_option
def logs(
    run: str,
    follow: bool,
    every: bool,
    trainer: bool,
    tensorboard: Path | None,
    wandb: str | None,
    trackio: str | None,
    as_json: bool,
) -> int:
    """Print what a run has said so far; without -f this returns at once."""
    wiring = wire_up()
    wiring.ledger.run(run)
    if wandb is not None:
        return log_run(wiring, run, Target(Kind.WANDB, named_project(wandb)), follow, as_json)
    if trackio is not None:
        return log_run(wiring, run, Target(Kind.TRACKIO, named_project(trackio)), follow, as_json)
    if tensorboard is not None:
        return _write_curves(wiring, run, tensorboard.expanduser().absolute() / run, follow, as_json)
    if trainer:
        _print_trainer_log(_trainer_log(wiring, run), run, as_json)
        return 0
    console = Console()
    reader, count, last, left_out = EventReader(wiring.home.run(run)), 0, None, 0
    while True:
        ended = wiring.ledger.run(run).state is State.ENDED  # looked at before the last read, not after
        for envelope in reader.fresh():
            count += 1
            if isinstance(envelope.event, wire.Hello):
                last = None
            if isinstance(envelope.event, wire.StepDone):
                if not (every or as_json or tells_enough_anew(envelope.event, last)):
                    left_out += 1
                    continue
                last = envelope.event
            _print_event(console, run, envelope, reader.progress, as_json)
        if ended or not follow:
            if as_json:
                click.echo(json.dumps({"type": "summary", "run": run, "events": count}))
            elif left_out:
                console.print(f"[dim]{left_out} steps left out: `cloudbooth logs {run} --all`[/]", soft_wrap=True)
            return 0
        time.sleep(WATCH_POLL_S)


def _write_curves(wiring: Wiring, run: str, folder: Path, follow: bool, as_json: bool) -> int:
    """Anew from the run's beginning: TensorBoard shows what a folder's files hold together, so older ones go."""
    reader = EventReader(wiring.home.run(run))
    began_at = wiring.ledger.run(run).created_at
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for older in folder.glob("events.out.tfevents.*.cloudbooth"):
            older.unlink()
        with (folder / tensorboard_file.file_name(began_at)).open("wb") as file:
            file.write(tensorboard_file.beginning(began_at))
            while True:
                ended = wiring.ledger.run(run).state is State.ENDED
                for record in tensorboard_file.records(points(reader.fresh())):
                    file.write(record)
                file.flush()
                if ended or not follow:
                    break
                time.sleep(WATCH_POLL_S)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}", "name another folder") from None
    summary = json.dumps({"type": "summary", "run": run, "folder": str(folder)})
    click.echo(summary if as_json else f"tensorboard --logdir {shlex.quote(str(folder.parent))}")
    return 0


@click.command(epilog="Example: cloudbooth attach my-dog")
@optional_run_argument
@click.option("--all", "every", is_flag=True, help="Carry on all runs that nobody does, in the background, and return.")
@notify_option
@log_to_option
@plain_option
@json_option
def attach(run: str | None, every: bool, as_json: bool) -> int:
    """Watch a run; carry it on if its process has died.

    While another process carries the run, Ctrl-C only ends the watching. With --all, as after a reboot of this
    laptop, every run that goes on and has no process gets one; nothing is watched.
    """
    wiring = wire_up()
    if every:
        if run is not None:
            raise UsageError("--all stands for every run", f"`cloudbooth attach {run}`, or `cloudbooth attach --all`")
        return _take_up_all(wiring, as_json)
    if run is None:
        raise UsageError("attach takes a run, or --all", "`cloudbooth ps` lists them")
    record = wiring.ledger.run(run)
    remember_targets(wiring.home.run(run), wanted_targets())
    with reporter_for(as_json, lambda: wiring.cost_usd(run), lambda: board_of(wiring, run)) as reporter:
        while record.state is not State.ENDED:
            try:
                summary = drive_to_end(wiring, run, reporter)
                break
            except RunConflict:
                if not is_driven(wiring.home.run(run).driver_lock):
                    raise
                reporter.note("another process drives this run: watching")
                _watch(wiring, run, reporter)
                record = wiring.ledger.run(run)
        else:
            assert record.reason is not None
            summary = summarize(wiring, run, record.reason)
    return tell(summary, as_json)


def _take_up_all(wiring: Wiring, as_json: bool) -> int:
    """One that does not start is named, and keeps none of the others from it."""
    wanted = [
        record.name
        for record in wiring.ledger.runs()
        if record.state is not State.ENDED and not is_driven(wiring.home.run(record.name).driver_lock)
    ]
    handed = hand_over(wiring, wanted, partial(click.echo, err=True))
    taken = [run for run in wanted if run not in (*handed.failed, *handed.starting)]
    if as_json:
        facts = {"taken_up": taken, "failed": handed.failed, "starting": handed.starting}
        click.echo(json.dumps({"type": "summary", **facts}))
    else:
        for run in taken:
            click.echo(f"{run} goes on in the background")
        for run in handed.starting:
            click.echo(as_told(run, handed))
        for run in handed.failed:
            hint = f"`cloudbooth attach {run}` says why"
            click.echo(f"error: the driver of `{run}` did not start\n\nhint: {hint}", err=True)
        if not wanted:
            click.echo("every run that goes on has its process")
    return int(ExitCode.CONFLICT) if handed.failed else 0


def _watch(wiring: Wiring, run: str, reporter: Reporter) -> None:
    """Shows new events until the run has ended or its driver is gone."""
    home = wiring.home.run(run)
    reader = EventReader(home)
    for _ in reader.fresh():  # what was before is not repeated
        pass
    state = wiring.ledger.run(run).state
    while is_driven(home.driver_lock):
        for envelope in reader.fresh():
            reporter.event(envelope, reader.progress)
        record = wiring.ledger.run(run)
        if record.state is not state:
            state = record.state
            reporter.moved(state, wiring.ledger.moves(run)[-1].why)
        time.sleep(WATCH_POLL_S)


def _trainer_log(wiring: Wiring, run: str) -> str:
    """From the host while the run lives there, else the copy that came home."""
    home = wiring.home.run(run)
    record = wiring.ledger.run(run)
    machine = wiring.ledger.machine(run, record.attempt)
    lives = machine is not None and machine.absent_at is None and machine.machine_id is not None
    if lives and not is_hosted(spec_from_json(record.spec_json)):  # the driver of a hosted job keeps its log here
        context = wiring.context(run, 0, Silent())
        remote = context.open_remote()
        try:
            fetch_log(remote, home)
        finally:
            remote.host.close()
    return home.trainer_log.read_text(errors="replace") if home.trainer_log.exists() else ""


def _print_trainer_log(text: str, run: str, as_json: bool) -> None:
    if not as_json:
        click.echo(wire.plain_text(text), nl=False)
        return
    lines = text.splitlines()
    for line in lines:
        click.echo(json.dumps({"type": "line", "text": line}))
    click.echo(json.dumps({"type": "summary", "run": run, "lines": len(lines)}))


def _print_event(console: Console, run: str, envelope: wire.Envelope, progress: Progress, as_json: bool) -> None:
    if as_json:
        click.echo(wire.encode_event(envelope.event, envelope.seq, envelope.t), nl=False)
        return
    text = describe(envelope.event, progress)
    if text is not None:
        stamp = escape(time.strftime("%H:%M:%S", time.localtime(envelope.t)))
        console.print(f"[dim]{stamp}[/] {text}", highlight=False, soft_wrap=True)
        if isinstance(envelope.event, wire.Failed) and envelope.event.hint:
            hint = escape(hint_for(run, envelope.event.hint))
            console.print(f"{' ' * len(stamp)} hint: {hint}", highlight=False, soft_wrap=True)
