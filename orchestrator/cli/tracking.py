"""Logging runs to Weights & Biases or trackio: by `logs`, or for as long as a run goes on by a process beside it.

Whoever drives a run leaves that process behind, so that nothing which goes wrong with a tracker, its network or its
packages can reach the run. A later driver leaves another, which sees to it that there is one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import click

from orchestrator.driver_lock import is_driven
from orchestrator.errors import RunConflict
from orchestrator.home import RunHome
from orchestrator.lifecycle import State
from orchestrator.operating_system import session_of_its_own
from orchestrator.reporter import Reporter
from orchestrator.spec import spec_from_json
from orchestrator.trackers.api import Target, require_installed, target_of, targets_of
from orchestrator.trackers.feeding import Feeder, alone, tracked
from orchestrator.trackers.opening import open_tracker
from orchestrator.whole_file import write_atomically
from orchestrator.wiring import Wiring, wire_up
from providers.errors import CloudboothError

POLL_S = 2.0
LEFT_ALONE_S = 60.0
"""A run that nobody drives for so long tells nothing new: its next driver has it logged again."""


def log_run(wiring: Wiring, run: str, target: Target, follow: bool, as_json: bool) -> int:
    """What has not been logged yet; with `follow` until the run has ended."""
    count = _feed(wiring, run, target, lambda: follow)
    if as_json:
        click.echo(json.dumps({"type": "summary", "run": run, "target": str(target), "logged": count}))
    else:
        click.echo(f"{count} points and pictures of {run} are in {target}")
    return 0


def remember_targets(home: RunHome, targets: tuple[Target, ...]) -> None:
    """Every driver of the run has it logged there from now on. Does nothing without targets."""
    if targets:
        home.root.mkdir(parents=True, exist_ok=True)  # somebody may have tidied up
        write_atomically(home.log_to, ",".join(map(str, targets)).encode())


def start_logging(
    home: RunHome, reporter: Reporter, environ: Mapping[str, str] | None = None
) -> threading.Thread | None:
    """Leaves a process behind for each place where the run is to be logged. Returns at once, and never raises.

    One that fails is told of while this process lives. The thread, if there is one, ends when all of them have.
    """
    try:
        targets = targets_of(home.log_to.read_text("utf-8"))
    except (OSError, CloudboothError):
        return None
    watching = threading.Thread(
        target=_log_beside, args=(home, targets, reporter, environ), name="logging", daemon=True
    )
    watching.start()
    return watching


def _log_beside(
    home: RunHome, targets: Sequence[Target], reporter: Reporter, environ: Mapping[str, str] | None
) -> None:
    children = []
    program = "from orchestrator.cli.tracking import main; main()"
    for target in targets:
        log = home.root / f"logging-{target.stem}.log"
        with log.open("ab") as out:
            child = subprocess.Popen(
                [sys.executable, "-P", "-c", program, home.root.name, str(target)], stdin=subprocess.DEVNULL,
                stdout=out, stderr=out, env=environ, **session_of_its_own(),
            )  # fmt: skip
        catch_up = f"`cloudbooth logs {home.root.name} --{target.kind.value} {target.project}` catches up"
        children.append((child, f"{target} gets no more of this run: see {log}; {catch_up}"))
    for child, failure in children:
        if child.wait() != 0:
            reporter.note(failure)


def main() -> None:
    """The process that is left behind: run and target are its arguments."""
    run, target = sys.argv[1:]
    wiring = wire_up()
    try:
        _feed(wiring, run, target_of(target), _while_driven(wiring, run))
    except RunConflict:
        return  # another does it
    except CloudboothError as error:
        sys.exit(f"error: {error.message}\n\nhint: {error.hint}")


def _feed(wiring: Wiring, run: str, target: Target, goes_on: Callable[[], bool]) -> int:
    record, home, count = wiring.ledger.run(run), wiring.home.run(run), 0
    require_installed(target.kind)
    identity = f"{run}-{wiring.ledger.installation}-{int(record.created_at)}"
    with alone(home, target):
        tracker = open_tracker(target, tracked(home, identity, spec_from_json(record.spec_json)))
        try:
            feeder = Feeder(home, target, tracker)
            while True:
                record = wiring.ledger.run(run)  # looked at before the last read, not after
                count += feeder.feed()
                if record.state is State.ENDED or not goes_on():
                    return count
                wiring.clock.sleep(POLL_S)
        finally:
            tracker.close()


def _while_driven(wiring: Wiring, run: str) -> Callable[[], bool]:
    driven_at = time.monotonic()

    def goes_on() -> bool:
        nonlocal driven_at
        now = time.monotonic()
        if is_driven(wiring.home.run(run).driver_lock):
            driven_at = now
        return now - driven_at < LEFT_ALONE_S

    return goes_on
