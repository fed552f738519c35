"""Files that survive a power cut: whole under their name or not there, and really on the disk."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.operating_system import sync_folder as sync_folder


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces `path`; when this returns, content and name are on the disk. Twice is safe, at once is not.

    Raises OSError; what was there before is there still.
    """
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    sync_folder(path.parent)
