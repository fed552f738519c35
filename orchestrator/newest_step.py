"""How far a run is, from the end of its event log: for lists of runs, which need neither all events nor their types."""

from __future__ import annotations

import json
import os
from contextlib import suppress

from orchestrator.home import RunHome

_STEP = b'"type": "step"'
"""As `remote_trainer.wire` writes it, which takes a while to load."""
TAILS_BYTES = (4 << 10, 256 << 10)
"""What is read first, then, and at last everything: pictures and checkpoints say little, and steps are many."""


def newest_step(home: RunHome) -> tuple[int, int, float | None] | None:
    """(step, of, loss) as the newest log that has any tells it, from its end: a list of runs need not read them whole.

    None before the first step. A line that cannot be read is passed over: `status` says what is wrong with it.
    """
    for file in reversed(home.event_logs()):
        with file.open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            for wanted in dict.fromkeys(min(tail, size) for tail in (*TAILS_BYTES, size)):
                handle.seek(size - wanted)
                for line in reversed(handle.read().split(b"\n")):
                    if _STEP in line:
                        with suppress(ValueError, KeyError, TypeError):
                            told = json.loads(line)
                            loss = told["loss"]  # null where a hosted trainer does not say
                            return int(told["step"]), int(told["of"]), None if loss is None else float(loss)
    return None
