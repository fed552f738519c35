"""The process that carries runs in the background: many drivers, a thread for each; what they load is loaded once.

A driver by itself takes 45 MB; a thread here adds one (tests/benchmarks/test_many_runs.py). Each run keeps its own
lock, log, ledger connection and connections to its machine: an error of one ends no other. If the process is killed,
all its runs are without a driver, as after a reboot, and `attach --all` takes them up again.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from orchestrator.cli.carriers import CarrierFolder
from orchestrator.cli.driving import drive_to_end
from orchestrator.cli.render.live import PLAIN_STEP_LINE_EVERY_S, PlainReporter
from orchestrator.driver_lock import driver_lock, is_driven
from orchestrator.errors import RunConflict
from orchestrator.home import Home
from orchestrator.operating_system import allow_open_files
from orchestrator.wiring import wire_up
from providers.errors import CloudboothError

LOOK_EVERY_S = 0.1
OPEN_FILES = 4096
"""Six a run: ledger, logs, connection; more while files come home."""


def main() -> None:
    """The process that is left behind; its folder is the argument. Ends when it drives nothing and nothing is wanted.

    Does nothing where another carrier of the folder lives.
    """
    folder = CarrierFolder(Path(sys.argv[1]))
    with suppress(RunConflict), driver_lock(folder.lock, "carrier"):
        folder.pid_file.write_text(str(os.getpid()))
        allow_open_files(OPEN_FILES)
        _carry_what_is_wanted(folder, Home.of_environment())
        folder.clear()


def _carry_what_is_wanted(folder: CarrierFolder, home: Home) -> None:
    drivers: list[threading.Thread] = []
    starting: dict[str, threading.Thread] = {}
    while drivers or folder.wanted():
        for run in folder.wanted():
            if run not in starting:
                starting[run] = threading.Thread(target=carry, args=(run,), name=run)
                starting[run].start()
                drivers.append(starting[run])
        for run, thread in list(starting.items()):
            if is_driven(home.run(run).driver_lock) or not thread.is_alive():
                folder.settle(run)
                del starting[run]
        drivers = [thread for thread in drivers if thread.is_alive()]
        time.sleep(LOOK_EVERY_S)


def carry(run: str) -> None:
    """Drives one run to its end in this thread. Whatever goes wrong is written into the run's `driver.log`."""
    wiring = wire_up()
    home = wiring.home.run(run)
    home.root.mkdir(parents=True, exist_ok=True)
    with home.driver_log.open("a", encoding="utf-8") as log:
        console = Console(file=log, no_color=True, highlight=False, width=200)
        reporter = PlainReporter(console, lambda: wiring.cost_usd(run), PLAIN_STEP_LINE_EVERY_S)
        try:
            summary = drive_to_end(wiring, run, reporter)
            log.write("\n".join(["", *summary.lines(), ""]))
        except CloudboothError as error:
            log.write(f"error: {error.message}\n\nhint: {error.hint}\n")
        except Exception:
            log.write(traceback.format_exc())
        finally:
            wiring.ledger.close()
