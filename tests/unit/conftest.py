"""Texts that users read, compared with files in the repository."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

SNAPSHOTS = Path(__file__).parents[1] / "snapshots"

Snapshot = Callable[[str, str], None]


@pytest.fixture
def snapshot(tmp_path: Path, request: pytest.FixtureRequest) -> Snapshot:
    """`snapshot(name, text)`: equals `tests/snapshots/<test file>/<name>.txt`, temporary paths shown as FOLDER.

    CLOUDBOOTH_UPDATE_SNAPSHOTS=1 writes the files instead; read the diff before you commit it.
    """

    def compare(name: str, text: str) -> None:
        shown = "\n".join(line.rstrip() for line in text.replace(str(tmp_path), "FOLDER").splitlines()) + "\n"
        path = SNAPSHOTS / request.path.stem / f"{name}.txt"
        if os.environ.get("CLOUDBOOTH_UPDATE_SNAPSHOTS") == "1":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(shown, "utf-8")
        assert path.exists(), f"no snapshot {path}; CLOUDBOOTH_UPDATE_SNAPSHOTS=1 writes it:\n{shown}"
        assert shown == path.read_text("utf-8")

    return compare
