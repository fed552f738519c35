"""What POSIX and Windows do differently: locks of files, sessions of processes, the account's home, folders on a disk.

The one module of the laptop's side that may call what one of them lacks; `tests/unit/test_operating_system.py` holds
the others to that. The branches for Windows are written from its documentation and have never been run there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import subprocess  # many a command asks for a lock, and few start a process

if sys.platform == "win32":
    import msvcrt
    import subprocess
else:
    import fcntl
    import pwd

TRAINS_HERE = sys.platform != "win32"
"""Whether this machine can be one that trains: the trainer's supervisor is written for POSIX."""
SOCKETS_ARE_FILES = sys.platform != "win32"
"""Whether a child process can have a socket as its stdin."""


# ---- locks, which end with the process that holds them ---------------------------------------------------------------


def take_lock(handle: IO[str] | IO[bytes]) -> bool:
    """Takes the lock of an open file for this handle alone, or returns False at once. Closing the file ends it."""
    if sys.platform == "win32":
        return _lock_first_byte(handle)
    else:
        return _flock(handle, fcntl.LOCK_EX)


def take_lock_of_process(handle: IO[str] | IO[bytes]) -> bool:
    """The same for all threads of this process together, where the system can: elsewhere for the handle."""
    if sys.platform == "win32":
        return _lock_first_byte(handle)
    else:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows either for "held by another"
            return False
        return True


def is_locked(handle: IO[str] | IO[bytes]) -> bool:
    """Whether another handle has what `take_lock` takes. Looking holds the lock until the file is closed."""
    if sys.platform == "win32":
        return not _lock_first_byte(handle)
    else:
        return not _flock(handle, fcntl.LOCK_SH)


if sys.platform == "win32":

    def _lock_first_byte(handle: IO[str] | IO[bytes]) -> bool:
        """Of a file that may be empty: a region beyond the end can be locked. Closing the handle unlocks.

        https://learn.microsoft.com/windows/win32/api/fileapi/nf-fileapi-lockfile
        """
        handle.seek(0)
        try:
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:

    def _flock(handle: IO[str] | IO[bytes], how: int) -> bool:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


# ---- processes -------------------------------------------------------------------------------------------------------


class Session(TypedDict):
    """Arguments of `subprocess.Popen`."""

    start_new_session: bool
    creationflags: int


def session_of_its_own() -> Session:
    """For a child that a Ctrl-C at our terminal must not reach, and that outlives the terminal.

    https://learn.microsoft.com/windows/win32/procthread/process-creation-flags
    """
    if sys.platform == "win32":
        return {
            "start_new_session": False,
            "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW,
        }
    else:
        return {"start_new_session": True, "creationflags": 0}


def kill_session(child: subprocess.Popen[bytes]) -> None:
    """Kills a child of `session_of_its_own` that has not been reaped, with all that it started. Does not wait."""
    if sys.platform == "win32":
        tree = ["taskkill", "/F", "/T", "/PID", str(child.pid)]
        subprocess.run(tree, capture_output=True, check=False)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def allow_open_files(count: int) -> None:
    """Raises this process's limit of open files and sockets to `count`, as far as it may: macOS starts with 256.

    https://docs.python.org/3/library/resource.html#resource.RLIMIT_NOFILE
    """
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with contextlib.suppress(ValueError, OSError):  # the kernel's own limit is lower still
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# ---- files -----------------------------------------------------------------------------------------------------------


def sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk: a rename is durable only with the folder it happened in.

    Windows opens no folders, and NTFS keeps a journal of names.
    """
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def never_block(stream: IO[bytes]) -> None:
    """Writes to a pipe take what fits, and raise BlockingIOError when nothing does. POSIX alone: `TRAINS_HERE`."""
    if sys.platform != "win32":
        os.set_blocking(stream.fileno(), False)


def account_home() -> Path | None:
    """The home folder of the account, whatever `$HOME` says; None where there is no such record."""
    if sys.platform == "win32":
        return None
    else:
        try:
            return Path(pwd.getpwuid(os.getuid()).pw_dir)
        except KeyError:
            return None
