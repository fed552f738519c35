"""The line that stands under every command while something may cost money."""

from __future__ import annotations

import sqlite3
import sys
import time

from orchestrator.budget import may_bill
from orchestrator.clock import SystemClock
from orchestrator.home import Home
from orchestrator.ledger import Ledger, MachineRecord, PredictionRecord, RunRecord
from orchestrator.lifecycle import State


def warn_of_bills() -> None:
    """Names on stderr every machine that costs money and whose absence nobody has confirmed. Never raises."""
    home = Home.of_environment()
    if not home.ledger_file.exists():
        return
    try:
        ledger = Ledger(home.ledger_file, SystemClock())
        machines = may_bill(ledger.open_machines())
        runs = {run.name: run for run in ledger.runs()} if machines else {}
        predictions = ledger.open_predictions()
        ledger.close()
    except sqlite3.Error as error:
        print(
            f"warning: the ledger cannot be read ({error}): what may bill stands in the providers' consoles as `cb-…`",
            file=sys.stderr,
        )
        return
    for machine in machines:
        print(billing_line(machine, runs[machine.run], time.time()), file=sys.stderr)
    for prediction in predictions:
        print(prediction_line(prediction, time.time()), file=sys.stderr)


def billing_line(machine: MachineRecord, run: RunRecord, now: float) -> str:
    """For one machine, with what it costs and the command that ends it."""
    unsure = "" if machine.machine_id is not None else "perhaps "
    since = machine.rates[-1].at if machine.stopped else machine.bills_since
    what = f"${machine.disk_per_day_usd:.2f} a day for its stopped disk" if machine.stopped else _per_hour(machine)
    line = f"{unsure}billing: {machine.tag} on {machine.provider}, {what} for {(now - since) / 3600:.1f} h now; "
    if run.state is State.ENDED:
        return line + "`cloudbooth gc` gives it back"
    if not machine.stopped:
        return line + f"`cloudbooth down {machine.run}` gives it back"
    return line + (
        f"it holds {machine.keeps.words}: `cloudbooth attach {machine.run}` fetches that, "
        f"`cloudbooth down {machine.run}` gives it up"
    )


def prediction_line(prediction: PredictionRecord, now: float) -> str:
    """For one picture that a service was asked for."""
    unsure = "" if prediction.prediction is not None else "perhaps "
    price = "" if prediction.usd_per_s is None else f", ${prediction.usd_per_s * 3600:.2f}/h while it computes"
    minutes = (now - prediction.intent_at) / 60
    return (
        f"{unsure}billing: {prediction.tag} on {prediction.provider}{price}, for {minutes:.0f} min now; "
        "it ends by itself, and every command asks whether it has"
    )


def _per_hour(machine: MachineRecord) -> str:
    return f"${machine.rate_usd:.2f}/h"
