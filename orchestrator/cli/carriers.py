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
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from os import environ
from pathlib import Path

from orchestrator.driver_lock import is_driven
from orchestrator.errors import RunConflict
from orchestrator.lifecycle import State
from orchestrator.operating_system import session_of_its_own
from orchestrator.wiring import Wiring

PATIENCE_S = 300.0
"""For a process that lives to take up a run: it loads its modules, which takes seconds, and minutes on a laptop that
thrashes. A fifth of a second a run comes on top. What does not live is not waited for."""
TELL_AFTER_S = 5.0
POLL_S = 0.05
START_AGAIN_S = 1.0
"""A carrier may end just when it is asked, and another is started then."""
MOST_CRASHES = 2
"""Of a carrier that ends with an error before it has taken up anything."""

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


@dataclass(frozen=True)
class HandedOver:
    """What became of runs that were left to a carrier; all others are taken up, or have ended already."""

    pid: int
    """Of the carrier; zero where none has lived to say it."""
    failed: tuple[str, ...] = ()
    """Nobody drives these, and no process lives that could begin to: the request is withdrawn."""
    starting: tuple[str, ...] = ()
    """A process lives that is asked for these and has not begun: it may, and may rent, at any moment."""


class Next(Enum):
    START = "start a carrier"
    WAIT = "wait"
    LEAVE = "leave the request to the process that lives"
    GIVE_UP = "withdraw the request"


def what_next(*, lives: bool, crashes: int, waited_s: float, patience_s: float, since_start_s: float) -> Next:
    """Of runs that were asked for and not taken up. Pure. `lives`: a carrier, or a child that is to become one.

    Never gives up on a process that lives: it would rent unseen.
    """
    if lives:
        return Next.WAIT if waited_s < patience_s else Next.LEAVE
    if crashes >= MOST_CRASHES or waited_s >= patience_s:
        return Next.GIVE_UP
    return Next.START if since_start_s >= START_AGAIN_S else Next.WAIT


def hand_over(wiring: Wiring, runs: Sequence[str], told: Callable[[str], None] = lambda _line: None) -> HandedOver:
    """Leaves the runs to a carrier, and blocks until it has taken them all up.

    As long as a process lives that may do so it is waited for, up to `PATIENCE_S` and a fifth of a second a run; `told`
    hears once that it takes long. Twice is safe.
    """
    if not runs:
        return HandedOver(0)
    folder = CarrierFolder(wiring.home.root / "carriers" / environment_mark(environ, code_mark()))
    for run in runs:
        wiring.home.run(run).root.mkdir(parents=True, exist_ok=True)  # somebody may have tidied up
        folder.ask_for(run)
    child: subprocess.Popen[bytes] | None = None
    crashes, begun_at, started_at, has_told = 0, time.monotonic(), float("-inf"), False
    while asked := set(folder.wanted()) & set(runs):
        if child is not None and child.poll() is not None:
            crashes += child.returncode != 0
            child = None
        now = time.monotonic()
        match what_next(
            lives=child is not None or is_driven(folder.lock),
            crashes=crashes,
            waited_s=now - begun_at,
            patience_s=PATIENCE_S + len(runs) * 0.2,
            since_start_s=now - started_at,
        ):
            case Next.START:
                child, started_at = _start_carrier(wiring, folder), now
            case Next.LEAVE:
                break
            case Next.GIVE_UP:
                for run in asked:
                    folder.settle(run)
                break
            case Next.WAIT:
                pass
        if not has_told and now - begun_at > TELL_AFTER_S:
            has_told = True
            told("the process in the background is still starting; Ctrl-C leaves it to that")
        time.sleep(POLL_S)
    asked = set(folder.wanted()) & set(runs)
    pid = child.pid if asked and child is not None else folder.carrier_pid()
    return what_became(pid, runs, asked, set(_not_taken(wiring, runs)))


def what_became(pid: int, runs: Sequence[str], asked: Set[str], not_taken: Set[str]) -> HandedOver:
    """Of runs that nobody drives those that are still asked for may begin, and all others have failed. Pure."""
    return HandedOver(
        pid,
        failed=tuple(run for run in runs if run in not_taken - asked),
        starting=tuple(run for run in runs if run in asked),
    )


def detach(wiring: Wiring, run: str, told: Callable[[str], None]) -> HandedOver:
    """Leaves the run to a process in the background, which holds it afterwards, or still may; `told` as `hand_over`.

    Raises RunConflict when nothing drives the run and nothing is about to.
    """
    handed = hand_over(wiring, [run], told)
    if handed.failed:
        log = wiring.home.run(run).driver_log
        if not log.exists():  # it has not come so far
            log = wiring.home.root / "drivers.log"
        raise RunConflict(
            f"the background driver of `{run}` ended before it took up the run; {log} says why",
            f"`cloudbooth attach {run}` drives it here, and `cloudbooth ps` shows what it holds",
        )
    return handed


def as_told(run: str, handed: HandedOver) -> str:
    """Where the run is now, in a line."""
    if not handed.starting:
        return f"{run} runs in the background (process {handed.pid})"
    return (
        f"{run} is left to process {handed.pid}, which lives and has not begun: `cloudbooth ps` shows when it has, and "
        f"what it holds; `cloudbooth down {run}` ends it"
    )


def _not_taken(wiring: Wiring, runs: Iterable[str]) -> Iterable[str]:
    for run in runs:
        if not is_driven(wiring.home.run(run).driver_lock) and wiring.ledger.run(run).state is not State.ENDED:
            yield run


def _start_carrier(wiring: Wiring, folder: CarrierFolder) -> subprocess.Popen[bytes]:
    # -P keeps a folder `orchestrator` in the user's current directory from shadowing ours.
    argv = [sys.executable, "-P", "-c", "from orchestrator.cli.together import main; main()", str(folder.root)]
    with (wiring.home.root / "drivers.log").open("ab") as log:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **session_of_its_own())
