"""How a request to stop travels out of work that is not a training step."""

from __future__ import annotations

from collections.abc import Callable

ShouldStop = Callable[[], bool]
"""True once the run has been asked to end; never returns to False."""


class StopRequested(Exception):
    """Preparation was cut short. What it had finished is on disk or can be done again."""


def check(should_stop: ShouldStop) -> None:
    """Raises StopRequested when a stop was asked for."""
    if should_stop():
        raise StopRequested
