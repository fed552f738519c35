"""trackio. It keeps all in a folder of this laptop, or in a Space of its user where `TRACKIO_SPACE_ID` says so."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path

import trackio

from orchestrator.curves import Point
from orchestrator.trackers.api import TrackedRun
from providers.errors import CloudboothError


class TrackioTracker:
    """Implements `orchestrator.trackers.api.Tracker`. One in a process. Runs are known by their names there.

    What it prints by itself goes to stderr: stdout is the verb's.
    """

    def __init__(self, project: str, run: TrackedRun) -> None:
        try:
            with redirect_stdout(sys.stderr):
                self._run = trackio.init(
                    project=project.replace("/", "-"), name=run.id, resume="allow", config=dict(run.settings),
                    embed=False, auto_log_gpu=False, auto_log_cpu=False,
                )  # fmt: skip
        except (ValueError, RuntimeError, OSError) as error:
            raise CloudboothError(f"trackio: {str(error).strip().rstrip('.')}", "trackio show") from None

    def log(self, point: Point) -> None:
        self._run.log(dict(point.values), step=point.step)

    def show(self, step: int, name: str, picture: Path, caption: str) -> None:
        self._run.log({name: trackio.Image(str(picture), caption=caption)}, step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            trackio.finish()
