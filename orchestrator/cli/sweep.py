"""What every command does first where it may be needed: give back what nobody waits for any more."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from collections.abc import Callable

from orchestrator.clock import SystemClock
from orchestrator.home import Home
from orchestrator.latecomers import expired_rescues, give_back_latecomers, give_back_strays, latecomers, strays
from orchestrator.ledger import Ledger, MachineRecord, PredictionRecord
from providers.errors import CloudboothError

PATIENCE_S = 10.0
"""A command waits this long for the providers; what was not finished is the next one's to do."""


def sweep() -> None:
    """One list for each run that may have left something; mostly there is none. Tells on stderr, never raises.

    A stopped disk whose `limits.rescue_hours` are over is given up here, too: perhaps nobody drives its run any more.
    """
    home = Home.of_environment()
    if not home.ledger_file.exists():
        return
    thread = threading.Thread(target=_sweep, args=(home, _tell), name="sweep", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    if thread.is_alive():
        _tell(f"looking for forgotten machines takes more than {PATIENCE_S:.0f} s; the next command looks again")


def _tell(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _sweep(home: Home, told: Callable[[str], None]) -> None:
    try:
        ledger = Ledger(home.ledger_file, SystemClock())
        machines = ledger.every_machine()
        left_behind = strays(machines, ledger.runs()) if any(m.absent_at is None for m in machines) else []
        expired = [machine for machine in _expired(home, ledger, machines) if machine not in left_behind]
        for machine in expired:
            told(
                f"{machine.tag} was kept stopped for as long as limits.rescue_hours says; it is given back, with "
                f"{machine.keeps.words} on its disk"
            )
        wanted = [*latecomers(machines, time.time()), *left_behind, *expired]
        if wanted:
            _ask_providers(ledger, wanted, told)
        if predictions := ledger.open_predictions():
            _settle_predictions(ledger, predictions, told)
        ledger.close()
    except sqlite3.Error as error:
        told(f"the ledger cannot be read: {error}")


def _expired(home: Home, ledger: Ledger, machines: list[MachineRecord]) -> list[MachineRecord]:
    stopped = [machine for machine in machines if machine.stopped and machine.absent_at is None]
    if not stopped:
        return []
    from orchestrator.driver_lock import is_driven
    from orchestrator.spec import spec_from_json  # it loads pydantic, as below

    def rescue_hours(machine: MachineRecord) -> float:
        return spec_from_json(ledger.run(machine.run).spec_json).limits.rescue_hours

    return expired_rescues(
        stopped, rescue_hours, lambda machine: is_driven(home.run(machine.run).driver_lock), time.time()
    )


def _ask_providers(ledger: Ledger, wanted: list[MachineRecord], told: Callable[[str], None]) -> None:
    from orchestrator.wiring import wire_up  # a spec is pydantic's, which takes its time: only where it is needed

    wiring = wire_up()
    for name in sorted({machine.run for machine in wanted}):
        of_run = [machine for machine in wanted if machine.run == name]
        try:
            provider = wiring.provider_of(ledger.run(name))
            if expected := [machine for machine in of_run if machine.machine_id is None]:
                give_back_latecomers(provider, ledger, expected, told)
            left_behind = [machine for machine in of_run if machine.machine_id is not None]
            give_back_strays(provider, ledger, left_behind, SystemClock(), told)
        except CloudboothError as error:
            tags = ", ".join(machine.tag for machine in of_run)
            told(f"could not ask {of_run[0].provider} about {tags}: {error.message}")


def _settle_predictions(ledger: Ledger, open_: list[PredictionRecord], told: Callable[[str], None]) -> None:
    from orchestrator.hosted.predictions import settle
    from orchestrator.wiring import wire_up
    from providers.jobs import HasPredictions

    wiring = wire_up()
    for name in sorted({record.provider for record in open_}):
        try:
            provider = wiring.job_provider_named(name)
            if isinstance(provider, HasPredictions):
                settle(ledger, wiring.clock, provider, [each for each in open_ if each.provider == name], told)
        except CloudboothError as error:
            told(f"could not ask {name} about pictures that may bill: {error.message}")
