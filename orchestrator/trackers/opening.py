"""From the name of a program to a run that is open in it."""

from __future__ import annotations

from typing import assert_never

from orchestrator.trackers.api import Kind, Target, TrackedRun, Tracker, require_installed


def open_tracker(target: Target, run: TrackedRun) -> Tracker:
    """Goes on where an earlier one of the same id has ended. May block for the network.

    Raises UsageError without the extra, and CloudboothError with the program's own words.
    """
    require_installed(target.kind)
    match target.kind:
        case Kind.WANDB:
            from orchestrator.trackers.in_wandb import WandbTracker

            return WandbTracker(target.project, run)
        case Kind.TRACKIO:
            from orchestrator.trackers.in_trackio import TrackioTracker

            return TrackioTracker(target.project, run)
    assert_never(target.kind)
