"""Which checkpoint has the lowest evaluation loss: each says so of all before it, in its own `state.json`."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from remote_trainer import wire

STATE_FILE = "state.json"
"""In the folder of a checkpoint."""


def best_checkpoint_in(state: bytes) -> int:
    """The step, by the content of a `state.json`; 0 where it tells of no evaluation."""
    with suppress(ValueError, KeyError, TypeError, wire.WireError):
        return wire.best_checkpoint([wire.decode(wire.Evaluated, each) for each in json.loads(state)["evaluations"]])
    return 0


def best_checkpoint_said_by(file: Path) -> int:
    """As `best_checkpoint_in`; 0 where the file is missing too."""
    with suppress(OSError):
        return best_checkpoint_in(file.read_bytes())
    return 0
