"""From an error to what a person reads, what a script gets, and a file for errors nobody foresaw."""

from __future__ import annotations

import errno
import json
import shlex
import sqlite3
import sys
import time
import traceback
from pathlib import Path

from orchestrator.errors import ExitCode, RunConflict, UsageError
from orchestrator.home import Home
from orchestrator.host import HostError
from orchestrator.ledger import DiskFull, met_a_full_disk
from orchestrator.storage.api import StorageError
from providers.errors import (
    AuthRejected,
    CloudboothError,
    Indeterminate,
    MachineGone,
    NoCapacity,
    QuotaExceeded,
    Transient,
    UnsupportedMarket,
)

_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (UsageError, ExitCode.USAGE),
    (UnsupportedMarket, ExitCode.USAGE),
    (RunConflict, ExitCode.CONFLICT),
    (HostError, ExitCode.HOST),
    (AuthRejected, ExitCode.PROVIDER),
    (NoCapacity, ExitCode.PROVIDER),
    (QuotaExceeded, ExitCode.PROVIDER),
    (MachineGone, ExitCode.PROVIDER),
    (Transient, ExitCode.PROVIDER),
    (Indeterminate, ExitCode.PROVIDER),
    (StorageError, ExitCode.PROVIDER),
    (CloudboothError, ExitCode.USAGE),
)


def explain(error: Exception, *, as_json: bool) -> int:
    """Says the fact and the hint on stderr (and as the last JSON object on stdout), and returns the exit code.

    An error that is not ours goes into a file with its traceback: people get its path.
    """
    error = _full_disk(error) or _name_too_long(error) or _damaged_ledger(error) or error
    code = exit_code_of(error)
    if isinstance(error, CloudboothError):
        message, hint = error.message, error.hint
    else:
        report = _write_crash_report("".join(traceback.format_exception(error)))
        message = f"cloudbooth has a bug: {type(error).__name__}: {error}"
        hint = f"the traceback is in {report}; `cloudbooth ps` shows what is still running"
    return say(message, hint, int(code), as_json=as_json)


def say(message: str, hint: str, exit_code: int, *, as_json: bool) -> int:
    """The one form of every error; returns the exit code."""
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"\nhint: {hint}", file=sys.stderr)
    if as_json:
        print(json.dumps({"type": "error", "message": message, "hint": hint, "exit_code": exit_code}))
    return exit_code


def _full_disk(error: Exception) -> CloudboothError | None:
    """Any write may meet it: of the ledger when it is opened, of the event mirror, of a lock."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    full = full or (isinstance(error, sqlite3.Error) and met_a_full_disk(error))
    return DiskFull(Home.of_environment().root) if full else None


def _name_too_long(error: Exception) -> CloudboothError | None:
    """Of whichever file or folder the user has named: no name of ours comes near the limit."""
    if not isinstance(error, OSError) or error.errno != errno.ENAMETOOLONG or error.filename is None:
        return None
    name = str(error.filename)
    shown = name if len(name) <= 60 else f"{name[:40]}…{name[-19:]}"
    return UsageError(f"the disk takes no name as long as {shown}, {len(name)} characters", "give a shorter one")


def _damaged_ledger(error: Exception) -> CloudboothError | None:
    extended = getattr(error, "sqlite_errorcode", None)  # which page or index of it, in the upper bytes
    if extended is None or extended & 0xFF not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return None
    file = Home.of_environment().ledger_file
    return RunConflict(
        f"the ledger {file} is damaged: {error}",
        "put a copy of it back. Where there is none, look in the providers' consoles for machines named `cb-…` and end "
        f"them there, then begin anew: `mv {shlex.quote(str(file))} {shlex.quote(f'{file}.damaged')}`",
    )


def exit_code_of(error: Exception) -> ExitCode:
    """The first row that fits; INTERNAL for what is not ours."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.INTERNAL)


def _write_crash_report(traceback_text: str) -> Path:
    """Returns the file's path. Falls back to the current folder when the home cannot be written."""
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}.txt"
    for folder in (Home.of_environment().root, Path.cwd()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(traceback_text)
            return folder / name
        except OSError:
            continue
    return Path("/dev/null")
