"""What the supervisor asks of whatever sends committed folders to object storage. Standard library only, 3.9."""

from __future__ import annotations

from typing import Optional, Protocol

from . import wire


class Uploads(Protocol):
    """Works beside the supervisor; no method blocks."""

    @property
    def active(self) -> bool:
        """Whether anything is sent away at all: so long as the laptop has lent nothing, it is not."""
        ...

    @property
    def longest_s(self) -> Optional[float]:
        """From `begin` until the folder was verified in the store, the longest so far; None before the first."""
        ...

    def begin(self, folder: wire.CommittedFolder) -> None:
        """A folder has been committed, or was found committed at the supervisor's start. Twice is safe."""
        ...

    def saved(self) -> frozenset[str]:
        """The manifest hashes of everything that is verified in the store."""
        ...

    def busy(self) -> bool:
        """Whether something that was begun may still arrive: false once it is saved or given up."""
        ...

    def news(self) -> list[wire.Event]:
        """What there is to say since the last call. To be asked for every second or so: that moves it on."""
        ...

    def close(self) -> None:
        """Ends what is at work; the next supervisor goes on with it. Twice is safe."""
        ...
