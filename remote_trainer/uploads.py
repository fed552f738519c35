"""What the supervisor asks of whatever sends committed folders to object storage. Standard library only, 3.9."""

from __future__ import annotations

from typing import Optional, Protocol

from . import wire


class Uploads(Protocol):
    """Works beside the supervisor; no method blocks."""

    active: bool
    """Whether anything is sent away at all."""
    longest_s: Optional[float]
    """From `begin` until the folder was verified in the store, the longest so far; None before the first."""

    def begin(self, folder: wire.CommittedFolder) -> None:
        """A folder has been committed, or was found committed at the supervisor's start. Twice is safe."""
        ...

    def saved(self) -> frozenset[str]:
        """The manifest hashes of everything that is verified in the store."""
        ...

    def busy(self) -> bool:
        """Whether something that was begun may still arrive: false once it is saved or given up."""
        ...


class NoUploads:
    """A run without object storage."""

    active = False
    longest_s: Optional[float] = None

    def begin(self, folder: wire.CommittedFolder) -> None: ...

    def saved(self) -> frozenset[str]:
        return frozenset()

    def busy(self) -> bool:
        return False
