"""What of a run lies on this laptop now: the ledger remembers what has arrived, the disk knows what was kept."""

from __future__ import annotations

from pathlib import Path

from orchestrator.ledger import ArtifactRecord
from orchestrator.wiring import Wiring
from remote_trainer import wire


def artifacts_on_disk(wiring: Wiring, run: str) -> tuple[ArtifactRecord, ...]:
    """Oldest step first. Older checkpoints are removed when newer ones have arrived, and models get moved."""
    return tuple(artifact for artifact in wiring.ledger.artifacts(run) if Path(artifact.folder).is_dir())


def pictures_folder(wiring: Wiring, run: str) -> str | None:
    """Where the validation pictures of a run lie, one folder for each step; None before the first has arrived."""
    folder = wiring.home.run(run).root / wire.VALIDATION_FOLDER
    return str(folder) if next(folder.glob("*/*.png"), None) else None
