"""Many drivers in one process, a thread for each: what they load is loaded once.

A driver by itself takes about 35 MB that it shares with nobody; a thread here adds little. Each run keeps its own
lock, log, ledger connection and connections to its machine: an error of one ends no other. If the process is killed,
all its runs are without a driver, as after a reboot, and the same command takes them up again.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence

from rich.console import Console

from orchestrator.cli.driving import DETACH_TIMEOUT_S, drive_to_end
from orchestrator.cli.render.live import PLAIN_STEP_LINE_EVERY_S, PlainReporter
from orchestrator.driver_lock import is_driven
from orchestrator.operating_system import session_of_its_own
from orchestrator.wiring import Wiring, wire_up
from providers.errors import CloudboothError


def carry_in_background(wiring: Wiring, runs: Sequence[str]) -> list[str]:
    """Leaves a process behind that drives all of them; returns those that it does not hold after a while.

    Blocks until it holds them all, for `DETACH_TIMEOUT_S` and a fifth of a second a run at most.
    """
    if not runs:
        return []
    argv = [sys.executable, "-P", "-c", "from orchestrator.cli.together import main; main()", *runs]
    with (wiring.home.root / "drivers.log").open("ab") as log:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **session_of_its_own())
    until = time.monotonic() + DETACH_TIMEOUT_S + len(runs) * 0.2
    missing = list(runs)
    while missing and time.monotonic() < until and child.poll() is None:
        missing = [run for run in missing if not is_driven(wiring.home.run(run).driver_lock)]
        time.sleep(0.05)
    return missing


def main() -> None:
    """The process that is left behind: the runs are its arguments. Ends when all of them have."""
    threads = [threading.Thread(target=carry, args=(run,), name=run) for run in sys.argv[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


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
