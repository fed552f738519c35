"""Handing a run over to the process that carries runs in the background; one such process carries many.

A driver by itself takes 45 MB, nearly all of it for what it has loaded. So whoever leaves a run in the background asks
a living carrier first, and starts one only where there is none of the same code and the same environment: keys and
addresses are read from the environment while a run is driven, and another shell may have others.

A request is a file, and a carrier is alive while it holds a lock: nothing is left to be cleared up after a kill or a
reboot. A carrier that nobody needs any more ends.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from os import environ
from pathlib import Path

from orchestrator.driver_lock import is_driven
from orchestrator.errors import RunConflict
from orchestrator.lifecycle import State
from orchestrator.operating_system import session_of_its_own
from orchestrator.wiring import Wiring

PATIENCE_S = 30.0
"""For a process to load its modules on a busy machine; a fifth of a second a run comes on top."""
POLL_S = 0.05
START_AGAIN_S = 5.0
"""A carrier may end just when it is asked, and another is started then."""

_OF_THE_TERMINAL = frozenset(
    (
        "_", "COLORTERM", "COLUMNS", "GPG_TTY", "LC_TERMINAL", "LC_TERMINAL_VERSION", "LINES", "OLDPWD", "PWD", "SHLVL",
        "SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY", "STY", "TERM", "WINDOW", "WINDOWID", "XDG_SESSION_ID", "XDG_VTNR",
    )
)  # fmt: skip
_OF_THE_TERMINAL_TOO = ("GHOSTTY_", "ITERM_", "KITTY_", "KONSOLE_", "TERM_", "TMUX", "VSCODE_", "VTE_", "WEZTERM_")


def environment_mark(environment: Mapping[str, str], code: str) -> str:
    """Equal where one process may stand for two: sixteen hexadecimal digits, from which no value can be told. Pure."""
    kept = sorted(
        (name, value)
        for name, value in environment.items()
        if name not in _OF_THE_TERMINAL and not name.startswith(_OF_THE_TERMINAL_TOO)
    )
    return hashlib.sha256(repr((code, kept)).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def code_mark() -> str:
    """Of the program as it is installed now: a carrier goes on with the code that it was started with."""
    packages = Path(__file__).parents[2]
    newest_ns = max(
        file.stat().st_mtime_ns for name in ("orchestrator", "providers") for file in (packages / name).rglob("*.py")
    )
    return f"{metadata.version('cloudbooth')} {sys.executable} {newest_ns}"


@dataclass(frozen=True)
class CarrierFolder:
    """Where one carrier is asked for runs."""

    root: Path

    @property
    def lock(self) -> Path:
        """Held while the carrier lives."""
        return self.root / "lock"

    @property
    def pid_file(self) -> Path:
        return self.root / "pid"

    def ask_for(self, run: str) -> None:
        """Twice is safe."""
        for _ in range(10):  # a carrier that ends clears the folder away
            with suppress(FileNotFoundError):
                (self.root / "wanted").mkdir(parents=True, exist_ok=True)
                (self.root / "wanted" / run).touch()
                return
        raise RunConflict(f"{self.root} goes away again and again", "the same command once more")

    def wanted(self) -> list[str]:
        """Runs that were asked for and that nobody has taken yet."""
        try:
            return sorted(file.name for file in (self.root / "wanted").iterdir())
        except FileNotFoundError:
            return []

    def settle(self, run: str) -> None:
        """The request is fulfilled, or withdrawn. Twice is safe."""
        (self.root / "wanted" / run).unlink(missing_ok=True)

    def clear(self) -> None:
        """For the carrier that holds the lock and ends. A request that has just come stays, and its folder with it."""
        with suppress(OSError):
            self.pid_file.unlink()
            self.lock.unlink()
            (self.root / "wanted").rmdir()
            self.root.rmdir()

    def carrier_pid(self) -> int:
        """Zero where none has said it."""
        try:
            return int(self.pid_file.read_text())
        except (OSError, ValueError):
            return 0


def hand_over(wiring: Wiring, runs: Sequence[str]) -> tuple[int, list[str]]:
    """Leaves the runs to a carrier. Returns its process id, and the runs that it does not drive and has not ended.

    Blocks until it has taken them all up, for `PATIENCE_S` and a fifth of a second a run at most.
    """
    if not runs:
        return 0, []
    folder = CarrierFolder(wiring.home.root / "carriers" / environment_mark(environ, code_mark()))
    for run in runs:
        wiring.home.run(run).root.mkdir(parents=True, exist_ok=True)  # somebody may have tidied up
        folder.ask_for(run)
    started_at, until = float("-inf"), time.monotonic() + PATIENCE_S + len(runs) * 0.2
    while (asked := set(folder.wanted()) & set(runs)) and time.monotonic() < until:
        if not is_driven(folder.lock) and time.monotonic() - started_at > START_AGAIN_S:
            started_at = time.monotonic()
            _start_carrier(wiring, folder)
        time.sleep(POLL_S)
    for run in asked:
        folder.settle(run)
    return folder.carrier_pid(), list(_not_taken(wiring, runs))


def detach(wiring: Wiring, run: str) -> int:
    """Leaves the run to a process in the background and returns its id once it holds the run."""
    pid, missing = hand_over(wiring, [run])
    if missing:
        log = wiring.home.run(run).driver_log
        raise RunConflict(f"the background driver of `{run}` did not start", f"see {log}, or `cloudbooth attach {run}`")
    return pid


def _not_taken(wiring: Wiring, runs: Iterable[str]) -> Iterable[str]:
    for run in runs:
        if not is_driven(wiring.home.run(run).driver_lock) and wiring.ledger.run(run).state is not State.ENDED:
            yield run


def _start_carrier(wiring: Wiring, folder: CarrierFolder) -> None:
    # -P keeps a folder `orchestrator` in the user's current directory from shadowing ours.
    argv = [sys.executable, "-P", "-c", "from orchestrator.cli.together import main; main()", str(folder.root)]
    with (wiring.home.root / "drivers.log").open("ab") as log:
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **session_of_its_own())
