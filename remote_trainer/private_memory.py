"""Where a host keeps what was lent to it: in memory, for its own user alone, one file a run and kind.

Standard library only, Python 3.9. A reboot, or a container that the provider restarts, ends it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

MEMORY = Path("/dev/shm")


def private_file(run_folder: Path, kind: str) -> Path:
    """In memory where this user can have a folder there that nobody else can enter; else in the run's folder."""
    folder = MEMORY / f"cloudbooth-{os.getuid()}"
    name = hashlib.sha256(str(run_folder).encode()).hexdigest()[:16]
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        ours = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid()
        if ours and not facts.st_mode & 0o077 and os.access(folder, os.W_OK):
            return folder / f"{kind}-{name}"
    return run_folder / f".{kind}"


def put_privately(path: Path, raw: bytes) -> None:
    """In place of what was there, readable by its owner alone from the first byte on. Raises OSError."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(raw)
    os.replace(temporary, path)


def drop(path: Path) -> None:
    """Twice is safe."""
    with contextlib.suppress(OSError):
        path.unlink()
