"""What the laptop lent a host for its uploads, kept in memory (`private_memory`). Standard library only, Python 3.9.

The laptop says how many seconds the grant is good for; they are counted on this machine's boot clock. A reboot, or a
container that the provider restarts, ends it: the laptop hands over a new one when it is next in contact.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from . import wire
from .deadline import HERE, Clocks
from .private_memory import drop, private_file, put_privately


@dataclass(frozen=True)
class HeldGrant:
    """As written to the file."""

    grant: wire.UploadGrant
    expires_at_s: float
    """On the boot clock of `boot`."""
    boot: str

    def left_s(self, clocks: Clocks = HERE) -> float:
        """Negative once it is over."""
        return self.expires_at_s - clocks.boot_clock()


def hold_grant(run_folder: Path, raw: bytes, clocks: Clocks = HERE) -> None:
    """Takes a grant over, in place of an earlier one. Raises WireError and OSError; nothing of it reaches a log."""
    grant = wire.loads(wire.UploadGrant, raw)
    held = HeldGrant(grant, clocks.boot_clock() + grant.lifetime_s, clocks.boot_id())
    put_privately(grant_file(run_folder), wire.dumps(held))


def held_grant(run_folder: Path, clocks: Clocks = HERE) -> Optional[HeldGrant]:
    """None when there is none, or it is of an earlier boot; one that has expired is still told."""
    try:
        held = wire.loads(HeldGrant, grant_file(run_folder).read_bytes())
    except (OSError, wire.WireError):
        return None
    return held if held.boot == clocks.boot_id() else None


def drop_grant(run_folder: Path) -> None:
    """Twice is safe."""
    drop(grant_file(run_folder))


def grant_file(run_folder: Path) -> Path:
    return private_file(run_folder, "upload-grant")
