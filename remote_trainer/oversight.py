"""What the supervisor decides: when a stage is asked to end, shown or killed, and how its end is to be called.

Values in, values out: nothing here acts, waits or reads a clock. Standard library only, Python 3.9 or later.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum
from typing import Optional

from . import wire

STOP_GRACE_S = 900.0
"""After SIGTERM a trainer may take this long to commit its checkpoint."""
MAX_FRUITLESS_STARTS = 3
STALL_S = 900.0
"""A trainer in its loop that says nothing for this long hangs; other phases (a download, say) may be quiet."""
STACKS_GRACE_S = 10.0
"""Between asking a stalled trainer for its stacks and killing it."""

DEADLINE_REACHED = wire.Failed(
    "deadline",
    "the run reached its time limit",
    "`cloudbooth resume RUN` continues from the newest checkpoint with the same time again",
)
DISK_FULL = wire.Failed(
    "disk-full", "the host's disk is full", "free some space there, then `cloudbooth resume RUN`: checkpoints are whole"
)
STALLED = wire.Failed(
    "stalled",
    f"the trainer hung: no step for {STALL_S / 60:.0f} minutes",
    "`cloudbooth logs RUN --trainer` shows where; `cloudbooth resume RUN` continues from the newest checkpoint",
)


class Urge(Enum):
    """What the supervisor does about a running stage."""

    NOTHING = "nothing"
    ASK_TO_STOP = "SIGTERM"
    SHOW_STACKS = "SIGUSR1"
    KILL = "SIGKILL"


@dataclass(frozen=True)
class StageView:
    """All that `urge` may look at."""

    stop_requested: bool
    time_left_s: float
    asked_to_stop_for_s: Optional[float]
    """Seconds since the stage was sent SIGTERM; None before that."""
    quiet_in_loop_s: float = 0.0
    """Seconds since the trainer's last event; 0 outside its training loop."""
    stacks_shown: bool = False


class Silence:
    """How long a stage has said nothing in its training loop, and whether it was asked for its stacks since.

    Times are seconds on any one clock. A new stage starts with a new one.
    """

    def __init__(self, now_s: float) -> None:
        self._heard_s = now_s
        self._in_loop = False
        self.stacks_shown = False

    def heard(self, now_s: float) -> None:
        """Anything at all: an alarm before it was a false one."""
        self._heard_s = now_s
        self.stacks_shown = False

    def entered(self, phase: str) -> None:
        self._in_loop = phase == "train"

    def asked_for_stacks(self, now_s: float) -> None:
        """The grace counts from here, however late the silence was noticed: the host may have slept."""
        self._heard_s = now_s - STALL_S
        self.stacks_shown = True

    def quiet_in_loop_s(self, now_s: float) -> float:
        return now_s - self._heard_s if self._in_loop else 0.0


def urge(view: StageView) -> Urge:
    """Decides, without acting, what a running stage needs now."""
    if view.quiet_in_loop_s > STALL_S:
        if view.stacks_shown:
            return Urge.KILL if view.quiet_in_loop_s > STALL_S + STACKS_GRACE_S else Urge.NOTHING
        return Urge.SHOW_STACKS
    if view.asked_to_stop_for_s is not None:
        return Urge.KILL if view.asked_to_stop_for_s > STOP_GRACE_S else Urge.NOTHING
    if view.stop_requested or view.time_left_s <= 0:
        return Urge.ASK_TO_STOP
    return Urge.NOTHING


def ending_without_word(
    exit_code: int, stop_requested: bool, deadline_passed: bool, last_step: int, stalled: bool = False
) -> wire.Event:
    """The terminal event for a stage that ended without sending one."""
    if stalled:
        return STALLED
    if deadline_passed:
        return DEADLINE_REACHED
    if stop_requested:
        return wire.Stopped(last_step)
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = "`cloudbooth resume RUN` continues from the newest checkpoint; the host may lack memory"
        return wire.Failed("trainer-killed", f"the trainer was killed by {name} again and again", hint)
    return wire.Failed(
        "internal", f"the trainer ended with exit code {exit_code}", "`cloudbooth logs RUN --trainer` shows its output"
    )


def worth_starting_again(exit_code: int, ending_was_asked_for: bool, fruitless_starts: int) -> bool:
    """Whether a trainer that a signal has killed gets another start, from its newest checkpoint.

    `fruitless_starts`: how many in a row, this one included, committed no checkpoint. One may be the host's out-of-
    memory killer or a mishap; the third in a row is the run's own doing.
    """
    return exit_code < 0 and not ending_was_asked_for and fruitless_starts < MAX_FRUITLESS_STARTS
