"""`forget`: a run that is over is removed, and its name is free."""

from __future__ import annotations

import json
import shutil
import sys

import click

from orchestrator.cli.options import json_option, run_argument
from orchestrator.driver_lock import driver_lock
from orchestrator.errors import RunConflict, UsageError
from orchestrator.forgetting import Forgotten, what_goes, why_not
from orchestrator.forgetting import forget as remove
from orchestrator.ledger import RunRecord
from orchestrator.lifecycle import EndReason
from orchestrator.mirror import progress_of_run
from orchestrator.reporter import Silent
from orchestrator.spec import RunSpec, spec_from_json
from orchestrator.wiring import Wiring, wire_up
from providers.api import HasStandingMachine
from providers.errors import CloudboothError


@click.command(epilog="Example: cloudbooth forget my-dog")
@run_argument
@click.option("--with-model", is_flag=True, help="Delete the finished model's folder, too.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask, whatever goes with it.")
@json_option
def forget(run: str, with_model: bool, yes: bool, as_json: bool) -> int:
    """Remove a run that is over from this laptop: record, photos, pictures, checkpoints, logs. Its name is free then.

    Refused while the run goes on or a machine of it may still bill. The model in its output folder stays unless
    --with-model is given, and so does what lies in a store. Where nobody can be asked, what would be lost with the
    run needs --yes.
    """
    wiring = wire_up()
    wiring.ledger.run(run)
    with driver_lock(wiring.home.run(run).driver_lock, run):
        record = wiring.ledger.run(run)
        machines, predictions = wiring.ledger.machines(run), wiring.ledger.predictions(run)
        if (conflict := why_not(record, machines, predictions, wiring.clock.now())) is not None:
            raise conflict
        spec = _readable(record)
        progress, artifacts = progress_of_run(wiring.home.run(run)), wiring.ledger.artifacts(run)
        found = what_goes(
            record, wiring.home.run(run), progress, artifacts, lies_elsewhere=_may_lie_elsewhere(wiring, record, spec)
        )
        if not yes and not _agreed(found, with_model, as_json):
            return 0
        epoch = wiring.ledger.become_driver(run)
        notes = _clear_own_machine(wiring, record, epoch, spec)
        if with_model and found.model is not None:
            shutil.rmtree(found.model)
        remove(wiring.ledger, wiring.home.run(run), run, epoch)
    if spec is not None and spec.storage.url:
        notes.append(f"what lies in {spec.storage.url} stays there")
    _tell(run, None if with_model or found.model is None else str(found.model), notes, as_json)
    return 0


def _readable(record: RunRecord) -> RunSpec | None:
    """None for a run of a version with other keys: that is no reason to keep it for ever."""
    try:
        return spec_from_json(record.spec_json)
    except UsageError:
        return None


def _may_lie_elsewhere(wiring: Wiring, record: RunRecord, spec: RunSpec | None) -> bool:
    if spec is None or spec.storage.url or spec.compute.volume:
        return True
    return _own_machine_keeps_it(wiring, record, spec)


def _own_machine_keeps_it(wiring: Wiring, record: RunRecord, spec: RunSpec) -> bool:
    """Whether the run's folder still lies on a machine that stands: a finished one was removed with the end."""
    stands = spec.compute.provider in ("local", "ssh") or spec.compute.machine is not None
    was_there = wiring.ledger.machine(record.name, record.attempt) is not None
    return stands and was_there and record.reason is not EndReason.DONE


def _clear_own_machine(wiring: Wiring, record: RunRecord, epoch: int, spec: RunSpec | None) -> list[str]:
    """Removes the run's folder from a machine that stands, photos included; what could not be done, as notes."""
    if spec is None or not _own_machine_keeps_it(wiring, record, spec):
        return []
    try:
        provider = wiring.provider(spec)
        assert isinstance(provider, HasStandingMachine)
        remote = wiring.context(record.name, epoch, Silent()).remote_at(provider.access())
        try:
            remote.forget()
        finally:
            remote.host.close()
    except CloudboothError as error:
        return [f"the run's folder stays on its machine, photos included: {error.message}"]
    return []


def _agreed(found: Forgotten, with_model: bool, as_json: bool) -> bool:
    """Raises RunConflict where nobody can be asked about what would be lost."""
    loses = found.loses
    if with_model and found.model is not None:
        loses = f"the model in {found.model} would be deleted"
    if not as_json and sys.stdin.isatty():
        if loses:
            click.echo(loses, err=True)
        return click.confirm(f"Remove {found.folder}, and what is on record?", default=not loses)
    if loses:
        more = "--with-model --yes" if with_model else "--yes"
        raise RunConflict(loses, f"`cloudbooth forget {found.run} {more}` removes it all the same")
    return True


def _tell(run: str, kept: str | None, notes: list[str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"type": "summary", "run": run, "forgotten": True, "model": kept, "notes": notes}))
        return
    click.echo(f"{run} is forgotten; its name is free" + (f". Its model stays in {kept}" if kept else ""))
    for note in notes:
        click.echo(f"note: {note}", err=True)
