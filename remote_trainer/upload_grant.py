"""Where a host keeps what the laptop lent it for uploads: in memory, for its own user alone. Standard library, 3.9.

The laptop says how many seconds the grant is good for; they are counted on this machine's boot clock. A reboot, or a
container that the provider restarts, ends it: the laptop hands over a new one when it is next in contact.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from . import wire
from .deadline import boot_clock, boot_id

MEMORY = Path("/dev/shm")
FALLBACK_NAME = ".upload-grant.json"


@dataclass(frozen=True)
class HeldGrant:
    """As written to the file."""

    grant: wire.UploadGrant
    expires_at_s: float
    """On the boot clock of `boot`."""
    boot: str

    @property
    def left_s(self) -> float:
        """Negative once it is over."""
        return self.expires_at_s - boot_clock()


def hold_grant(run_folder: Path, raw: bytes) -> None:
    """Takes a grant over, in place of an earlier one. Raises WireError and OSError; nothing of it reaches a log."""
    grant = wire.loads(wire.UploadGrant, raw)
    held = HeldGrant(grant, boot_clock() + grant.lifetime_s, boot_id())
    path = grant_file(run_folder)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(wire.dumps(held))
    os.replace(temporary, path)


def held_grant(run_folder: Path) -> Optional[HeldGrant]:
    """None when there is none, or it is of an earlier boot; one that has expired is still told."""
    try:
        held = wire.loads(HeldGrant, grant_file(run_folder).read_bytes())
    except (OSError, wire.WireError):
        return None
    return held if held.boot == boot_id() else None


def drop_grant(run_folder: Path) -> None:
    """Twice is safe."""
    with contextlib.suppress(OSError):
        grant_file(run_folder).unlink()


def grant_file(run_folder: Path) -> Path:
    """In memory where this user can have a folder there that nobody else can enter; else in the run's folder."""
    folder = MEMORY / f"cloudbooth-{os.getuid()}"
    name = hashlib.sha256(str(run_folder).encode()).hexdigest()[:16]
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        ours = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid()
        if ours and not facts.st_mode & 0o077 and os.access(folder, os.W_OK):
            return folder / f"grant-{name}.json"
    return run_folder / FALLBACK_NAME
