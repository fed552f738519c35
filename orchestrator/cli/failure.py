"""From an error to the exit code that scripts rely on, and to a file for errors nobody foresaw."""

from __future__ import annotations

import time
from pathlib import Path

from orchestrator.errors import ExitCode, RunConflict, UsageError
from orchestrator.home import Home
from orchestrator.host import HostError
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
    (CloudboothError, ExitCode.USAGE),
)


def exit_code_of(error: Exception) -> ExitCode:
    """The first row that fits; INTERNAL for what is not ours."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.INTERNAL)


def write_crash_report(traceback_text: str) -> Path:
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
