"""Becoming a run's driver, obeying Ctrl-C, and saying how it ended."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.cli.carriers import as_told, detach
from orchestrator.cli.notifying import TellingOfTrouble, ended_notice, error_notice
from orchestrator.cli.render.summary import Summary, summarize
from orchestrator.cli.tracking import start_logging
from orchestrator.driver import drive, drive_until
from orchestrator.driver_lock import driver_lock
from orchestrator.hints import hint_for
from orchestrator.home import RunHome
from orchestrator.hosted.driver import drive_job
from orchestrator.ledger import Ledger
from orchestrator.lifecycle import EndReason, Standing, State, Wish
from orchestrator.notify import VARIABLE as NOTIFY_VARIABLE
from orchestrator.notify import Notifier, targets_of
from orchestrator.phases.loss import was_shipped_to
from orchestrator.reporter import Reporter
from orchestrator.spec import spec_from_json, spec_to_json
from orchestrator.wiring import Wiring, is_hosted
from providers.errors import CloudboothError

KEEPS_ITS_LIMIT = (
    "the machine at work keeps the limit that came with its job; what --max-cost adds counts from the next machine on"
)


@dataclass(frozen=True)
class NewLimits:
    """What a person who resumes grants anew; None leaves what the run had."""

    max_cost_usd: float | None = None
    max_hours: float | None = None


def drive_to_end(
    wiring: Wiring, run: str, reporter: Reporter, *, resume: bool = False, limits: NewLimits = NewLimits()
) -> Summary:
    """Drives in this process until the run has ended. Raises RunConflict when another process drives it.

    Ctrl-C asks for a checkpoint and the end; a second one ends everything now, without a checkpoint; a third leaves
    by KeyboardInterrupt, with the run as it is in the ledger: `cloudbooth ps` says what is still held.
    """
    notifier = Notifier(targets_of(os.environ.get(NOTIFY_VARIABLE, "")), reporter.note)
    telling = TellingOfTrouble(reporter, notifier, run, lambda: wiring.cost_usd(run))
    with driver_lock(wiring.home.run(run).driver_lock, run):
        epoch = wiring.ledger.become_driver(run)
        if resume:
            take_up(wiring, run, epoch, limits)
            if limits.max_cost_usd is not None and has_its_limit(wiring.ledger, wiring.home.run(run)):
                reporter.note(KEEPS_ITS_LIMIT)
        start_logging(wiring.home.run(run), reporter)
        try:
            with _obeying_ctrl_c(wiring, run, reporter):
                reason = _drive_through_interrupts(wiring, run, epoch, telling)
        except CloudboothError as error:
            error.hint = hint_for(run, error.hint)
            notifier.tell(error_notice(run, error, wiring.cost_usd(run)))
            notifier.close()
            raise
    record = wiring.ledger.run(run)
    if record.state is State.KEEPING:
        minutes = spec_from_json(record.spec_json).limits.keep_minutes
        reporter.note(f"the machine is kept for {minutes:g} min: `launch … --on {run}` uses it, `down {run}` ends it")
        reporter.note(as_told(run, detach(wiring, run, reporter.note)))
    summary = summarize(wiring, run, reason)
    notifier.tell(ended_notice(summary))
    notifier.close()
    return summary


def take_up(wiring: Wiring, run: str, epoch: int, limits: NewLimits = NewLimits()) -> None:
    """Makes a run go on: an ended one with a new attempt, any other without the wish to end. For `resume`."""
    given = {key: value for key, value in vars(limits).items() if value is not None}
    if given:
        spec = spec_from_json(wiring.ledger.run(run).spec_json)
        granted = spec.model_copy(update={"limits": spec.limits.model_copy(update=given)})
        wiring.ledger.change_spec(run, epoch, spec_to_json(granted))
    if wiring.ledger.run(run).state is State.ENDED:
        wiring.ledger.start_attempt(run, epoch)
    else:
        wiring.ledger.withdraw_wish(run, epoch)


def has_its_limit(ledger: Ledger, home: RunHome) -> bool:
    """Whether a machine is at work for the run that was told, with its job, until when it is paid for."""
    run = ledger.run(home.root.name)
    machine = ledger.machine(run.name, run.attempt)
    if machine is None or machine.standing is not Standing.HELD or machine.price_per_hour_usd <= 0:
        return False
    return was_shipped_to(home, machine)


def _drive_through_interrupts(wiring: Wiring, run: str, epoch: int, reporter: Reporter) -> EndReason:
    try:
        return _drive_to_its_model(wiring, run, epoch, reporter)
    except KeyboardInterrupt:
        wiring.ledger.set_wish(run, Wish.DOWN)
        reporter.note("ending now, without a checkpoint; Ctrl-C once more leaves everything as it is")
        return _drive(wiring, run, epoch, reporter)


def _drive(wiring: Wiring, run: str, epoch: int, reporter: Reporter) -> EndReason:
    if is_hosted(spec_from_json(wiring.ledger.run(run).spec_json)):
        return drive_job(wiring.job_context(run, epoch, reporter))
    return drive(wiring.context(run, epoch, reporter))


def _drive_to_its_model(wiring: Wiring, run: str, epoch: int, reporter: Reporter) -> EndReason:
    """To the end, or to where a machine is kept for the next run: a driver in the background sees to that."""
    if is_hosted(spec_from_json(wiring.ledger.run(run).spec_json)):
        return _drive(wiring, run, epoch, reporter)
    context = wiring.context(run, epoch, reporter)
    if context.run.state is not State.KEEPING and drive_until(context, State.KEEPING):
        return EndReason.DONE
    return drive(context)


@contextmanager
def _obeying_ctrl_c(wiring: Wiring, run: str, reporter: Reporter) -> Iterator[None]:
    """The first Ctrl-C becomes a wish in the ledger, later ones KeyboardInterrupt.

    A thread with a connection of its own writes the wish: the handler may run in the middle of a transaction. Only the
    main thread hears of a Ctrl-C; a driver in another one is asked through the ledger alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = threading.Event()
    presses = 0

    def on_sigint(_number: int, _frame: object) -> None:
        nonlocal presses
        presses += 1
        if presses > 1:
            raise KeyboardInterrupt
        asked.set()

    def write_wish() -> None:
        asked.wait()
        if not over:
            ledger = Ledger(wiring.home.ledger_file, wiring.clock)
            ledger.set_wish(run, Wish.STOP)
            ledger.close()
            reporter.note("stopping with a checkpoint; Ctrl-C again ends now without one")

    over = False
    thread = threading.Thread(target=write_wish, name="ctrl-c", daemon=True)
    thread.start()
    previous = signal.signal(signal.SIGINT, on_sigint)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        over = True
        asked.set()
        thread.join(timeout=5)
