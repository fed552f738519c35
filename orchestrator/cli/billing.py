"""The line that stands under every command while something may cost money."""

from __future__ import annotations

import sqlite3
import sys
import time

from orchestrator.budget import may_bill
from orchestrator.clock import SystemClock
from orchestrator.home import Home
from orchestrator.ledger import Ledger, MachineRecord


def warn_of_bills() -> None:
    """Names on stderr every machine that costs money and whose absence nobody has confirmed. Never raises."""
    home = Home.of_environment()
    if not home.ledger_file.exists():
        return
    try:
        ledger = Ledger(home.ledger_file, SystemClock())
        machines = may_bill(ledger.open_machines())
        ledger.close()
    except sqlite3.Error as error:
        print(f"warning: the ledger cannot be read ({error}): `cloudbooth gc` asks the providers", file=sys.stderr)
        return
    for machine in machines:
        print(billing_line(machine, time.time()), file=sys.stderr)


def billing_line(machine: MachineRecord, now: float) -> str:
    """For one machine, with what it costs and the command that ends it."""
    unsure = "" if machine.machine_id is not None else "perhaps "
    return (
        f"{unsure}billing: {machine.tag} on {machine.provider}, ${machine.price_per_hour_usd:.2f}/h "
        f"for {(now - machine.bills_since) / 3600:.1f} h now; `cloudbooth down {machine.run}` gives it back"
    )
