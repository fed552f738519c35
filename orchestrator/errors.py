"""Errors of the laptop side that belong to no single module, and the exit codes of every outcome."""

from __future__ import annotations

from enum import IntEnum

from providers.errors import CloudboothError


class ExitCode(IntEnum):
    """Documented in docs/cli.md and stable: scripts depend on them."""

    OK = 0
    INTERNAL = 1
    """A bug: the traceback is in a file whose path is printed."""
    USAGE = 2
    """Wrong flags, wrong spec, wrong photos: nothing was started, nothing was spent."""
    TRAINING_FAILED = 3
    """The trainer gave up; checkpoints are kept and `resume` continues from the newest."""
    HOST = 4
    """The machine cannot be reached, or its key or our login was refused."""
    PROVIDER = 5
    """No capacity, no quota, credentials refused, ceiling reached; object storage that cannot be used."""
    STOPPED = 6
    """Ended by request (`stop`, Ctrl-C) with a checkpoint; `resume` continues."""
    CANCELED = 7
    """Ended by request (`down`, Ctrl-C twice) without waiting for one."""
    CONFLICT = 8
    """Another process drives this run, or the run is in a state that does not allow the verb."""
    MACHINE_LOST = 9
    """The machine was lost and another could not be paid for; `resume` continues from the newest checkpoint."""


class UsageError(CloudboothError):
    """The input is wrong: exit code 2, and nothing has been started."""


class RunConflict(CloudboothError):
    """The run exists, but not in a state (or not with a driver) that allows this."""


class WishChanged(CloudboothError):
    """The user wants something else of the run than when a wait began: what comes next is to be decided anew."""


class StaleDriver(RunConflict):
    """Another process has become this run's driver: this one must not act any more."""
