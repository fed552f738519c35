"""What sends committed folders of a simulated machine away."""

from __future__ import annotations

from remote_trainer import wire


class NoUploads:
    """A run without object storage. Implements `remote_trainer.uploads.Uploads`."""

    active = False
    longest_s: float | None = None

    def begin(self, folder: wire.CommittedFolder) -> None: ...

    def saved(self) -> frozenset[str]:
        return frozenset()

    def busy(self) -> bool:
        return False

    def news(self) -> list[wire.Event]:
        return []

    def close(self) -> None: ...
