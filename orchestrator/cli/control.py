"""`pull`, `stop`, `down`, `resume`: changing what happens to a run."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path

import click

from orchestrator.at_stake import LostByDown, lost_by_down
from orchestrator.cli.carriers import as_told, detach
from orchestrator.cli.driving import NewLimits, drive_to_end, take_up
from orchestrator.cli.options import (
    Amount,
    from_store_options,
    json_option,
    log_to_option,
    notify_option,
    plain_option,
    run_argument,
    wanted_targets,
)
from orchestrator.cli.render.files import artifacts_on_disk, pictures_folder
from orchestrator.cli.render.live import board_of, reporter_for
from orchestrator.cli.render.summary import summarize, tell
from orchestrator.cli.tracking import remember_targets
from orchestrator.driver_lock import driver_lock, is_driven
from orchestrator.errors import ExitCode, RunConflict
from orchestrator.host import ConnectionLost, HostUnreachable
from orchestrator.lifecycle import RESUMABLE, State, Wish
from orchestrator.phases.retrieve import pull_what_is_there
from orchestrator.phases.storage import pull_from_store
from orchestrator.reporter import Reporter
from orchestrator.spec import spec_from_json
from orchestrator.takeover import bring_newest, find_run, take_over
from orchestrator.wiring import Wiring, is_hosted, wire_up
from providers.errors import MachineGone

WAIT_POLL_S = 0.3


@click.command(epilog="Example: cloudbooth pull my-dog")
@run_argument
@from_store_options
@plain_option
@json_option
def pull(run: str, url: str | None, endpoint_url: str | None, as_json: bool) -> int:
    """Fetch the pictures, the newest and the best checkpoint of a run, or its model when it is done.

    Changes nothing about the run, and can be called as often as you like. When the machine is gone, checkpoint and
    model come from the run's object storage. With --from they come into ./models, also of a run unknown here.
    """
    wiring = wire_up()
    if url is not None:
        return _pull_from(url, endpoint_url, run, as_json)
    record = wiring.ledger.run(run)
    with reporter_for(as_json, lambda: wiring.cost_usd(run), lambda: board_of(wiring, run)) as reporter:
        if is_hosted(spec_from_json(record.spec_json)):
            return _tell_what_is_here(wiring, run, as_json)
        context = wiring.context(run, record.driver_epoch, reporter)
        machine = context.machine()
        if machine is not None and machine.absent_at is None:
            try:
                pull_what_is_there(context)
            except (HostUnreachable, ConnectionLost, MachineGone) as error:
                if context.store is None:
                    raise
                reporter.note(f"{error.message}; taking what is in the store")
        pull_from_store(context)
    return _tell_what_is_here(wiring, run, as_json)


def _tell_what_is_here(wiring: Wiring, run: str, as_json: bool) -> int:
    here, pictures = artifacts_on_disk(wiring, run), pictures_folder(wiring, run)
    if as_json:
        files = [{"kind": a.kind, "step": a.step, "folder": a.folder} for a in here]
        click.echo(json.dumps({"type": "summary", "run": run, "artifacts": files, "pictures": pictures}))
        return 0
    for artifact in here:
        click.echo(f"{artifact.kind} of step {artifact.step}: {artifact.folder}")
    if pictures:
        click.echo(f"pictures: {pictures}")
    if not here and not pictures:
        click.echo("nothing is committed yet")
    return 0


@click.command(epilog="Example: cloudbooth stop my-dog")
@run_argument
@plain_option
@json_option
def stop(run: str, as_json: bool) -> int:
    """Save a checkpoint, bring it home, give the machine back. Returns when that is done.

    `cloudbooth resume RUN` continues from that checkpoint.
    """
    return _end(run, Wish.STOP, as_json)


@click.command(epilog="Example: cloudbooth down my-dog")
@run_argument
@click.option("--yes", "-y", is_flag=True, help="Do not ask, whatever the machine holds alone.")
@click.option("--force", is_flag=True, help="Give up a machine of your own that cannot be reached, as it is.")
@plain_option
@json_option
def down(run: str, yes: bool, force: bool, as_json: bool) -> int:
    """Give the machine back now, without waiting for a checkpoint. Returns when it is gone.

    Steps since the last checkpoint are lost; `cloudbooth resume RUN` continues from there. Before a rented machine
    goes that holds something which came home nowhere, this names it and asks; where nobody can be asked, a finished
    model needs --yes. A machine of your own keeps the run's files; with --force it need not even answer.
    """
    wiring = wire_up()
    loss = lost_by_down(wiring, wiring.ledger.run(run))
    if loss is not None and not yes and not _agreed(run, loss, as_json):
        return 0
    return _end(run, Wish.ABANDON if force else Wish.DOWN, as_json)


def _agreed(run: str, loss: LostByDown, as_json: bool) -> bool:
    """Raises RunConflict where nobody can be asked about a model."""
    if not as_json and sys.stdin.isatty():
        click.echo(f"{loss.words}; `cloudbooth stop {run}` brings it home first", err=True)
        return click.confirm("Give it up?", default=False)
    if loss.keeps.may_be_the_model:
        raise RunConflict(
            loss.words,
            f"`cloudbooth attach {run}` brings it home, `cloudbooth down {run} --yes` gives it up",
        )
    click.echo(f"note: {loss.words}", err=True)
    return True


@click.command(epilog="Example: cloudbooth resume my-dog")
@run_argument
@from_store_options
@click.option("--max-cost", type=Amount(0), metavar="USD", help="From now on all attempts may cost so much.")
@click.option("--max-hours", type=Amount(0, min_open=True), metavar="H", help="As for `launch`, from now on.")
@click.option("--detach", "in_background", is_flag=True, help="Go on in the background and return.")
@notify_option
@log_to_option
@plain_option
@json_option
def resume(
    run: str,
    url: str | None,
    endpoint_url: str | None,
    max_cost: float | None,
    max_hours: float | None,
    in_background: bool,
    as_json: bool,
) -> int:
    """Continue a failed, stopped or interrupted run from its newest checkpoint.

    What all attempts may cost together stays what it was, unless --max-cost says otherwise; a machine that is at work
    now keeps the limit that came with its job.
    With --from, a run that another laptop began continues here as RUN, from what its object storage holds.
    """
    wiring = wire_up()
    if url is not None:
        with reporter_for(as_json, lambda: 0.0) as reporter:
            take_over(wiring, run, find_run(url, endpoint_url, run), reporter)
    record = wiring.ledger.run(run)
    if record.state is State.ENDED and record.reason not in RESUMABLE:
        output = [a.folder for a in wiring.ledger.artifacts(run) if a.kind == "output"]
        raise RunConflict(f"run `{run}` is done", f"its model is in {output[-1]}" if output else "")
    limits = NewLimits(max_cost, max_hours)
    remember_targets(wiring.home.run(run), wanted_targets())
    if in_background:
        with driver_lock(wiring.home.run(run).driver_lock, run):
            take_up(wiring, run, wiring.ledger.become_driver(run), limits)
        handed = detach(wiring, run, partial(click.echo, err=True))
        facts = {"detached": True, "driver_pid": handed.pid, "starting": bool(handed.starting)}
        click.echo(
            json.dumps({"type": "summary", "run": run, **facts})
            if as_json
            else f"{as_told(run, handed)}; `cloudbooth attach {run}` watches it"
        )
        return 0
    with reporter_for(as_json, lambda: wiring.cost_usd(run), lambda: board_of(wiring, run)) as reporter:
        return tell(drive_to_end(wiring, run, reporter, resume=True, limits=limits), as_json)


def _pull_from(url: str, endpoint_url: str | None, name: str, as_json: bool) -> int:
    with reporter_for(as_json, lambda: 0.0) as reporter:
        brought = bring_newest(find_run(url, endpoint_url, name), name, Path.cwd() / "models", reporter)
    files = [{"kind": brought[0].kind, "step": brought[0].step, "folder": str(brought[1])}] if brought else []
    if as_json:
        click.echo(json.dumps({"type": "summary", "run": name, "artifacts": files, "pictures": None}))
    else:
        for file in files:
            click.echo(f"{file['kind']} of step {file['step']}: {file['folder']}")
        if not files:
            click.echo("nothing is committed yet")
    return 0


def _end(run: str, wish: Wish, as_json: bool) -> int:
    """Writes the wish down; then either waits for the driver that obeys it, or becomes that driver."""
    wiring = wire_up()
    record = wiring.ledger.run(run)
    if record.state is State.ENDED:
        assert record.reason is not None
        raise RunConflict(
            f"run `{run}` has ended already ({record.reason.value})", f"`cloudbooth status {run}` shows it"
        )
    wiring.ledger.set_wish(run, wish)
    with reporter_for(as_json, lambda: wiring.cost_usd(run), lambda: board_of(wiring, run)) as reporter:
        while True:
            try:
                summary = drive_to_end(wiring, run, reporter)
                break
            except RunConflict:
                if not is_driven(wiring.home.run(run).driver_lock):
                    raise
                _wait_for_driver(wiring, run, reporter)
            record = wiring.ledger.run(run)
            if record.state is State.ENDED and record.reason is not None:
                summary = summarize(wiring, run, record.reason)
                break
    # What was asked for has happened: only a failure on the way is a failure of this verb.
    as_asked = (ExitCode.OK, ExitCode.STOPPED, ExitCode.CANCELED)
    return 0 if tell(summary, as_json) in as_asked else summary.exit_code


def _wait_for_driver(wiring: Wiring, run: str, reporter: Reporter) -> None:
    reporter.note("the run's driver was told; waiting for it")
    while is_driven(wiring.home.run(run).driver_lock) and wiring.ledger.run(run).state is not State.ENDED:
        time.sleep(WAIT_POLL_S)
