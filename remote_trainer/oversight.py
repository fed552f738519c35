"""What the supervisor decides: when a stage is asked to end, shown or killed, and how its end is to be called.

Values in, values out: nothing here acts, waits or reads a clock. Standard library only, Python 3.9 or later.
"""

from __future__ import annotations

import signal
from collections.abc import Collection, Sequence
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
MONEY_SPENT = wire.Failed(
    "deadline",
    "the run reached the limit of what it may cost, less the time to end it",
    "`cloudbooth resume RUN` continues from the newest checkpoint, under a higher `limits.max_cost_usd`",
)
RESERVE_MARGIN_S = 60.0
"""Kept free beside what was measured: a slow disk, the guard's own call."""
CONTACT_S = 300.0
"""A laptop that called this lately is about to give the machine back itself."""
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
    exit_code: int,
    stop_requested: bool,
    by_the_clock: Optional[wire.Failed],
    last_step: int,
    stalled: bool = False,
) -> wire.Event:
    """The terminal event for a stage that ended without sending one. `by_the_clock`: what `out_of_time` says."""
    if stalled:
        return STALLED
    if by_the_clock is not None:
        return by_the_clock
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


# ---- the end of a rented machine -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeenTimes:
    """What was seen on this machine, seconds; None for what has not happened yet."""

    commit_s: Optional[float] = None
    """From the evaluation before a checkpoint to its commit, at the longest."""
    upload_s: Optional[float] = None
    """From a commit until the checkpoint was verified in object storage, at the longest."""
    step_s: Optional[float] = None
    """A step of training, lately: whoever is asked to stop makes the one at work first."""


def reserve_s(planned_s: float, seen: SeenTimes, uploads: bool) -> float:
    """How long before the limit training is asked to stop.

    A run that is out of time ends with a checkpoint, which `uploads` sends away; the export is left to the run that
    resumes it. Both may take twice as long as they ever did. Until everything was seen once, the plan's word counts.
    The step at work comes on top: it may last for minutes, and nothing is committed before it is done.
    """
    step_s = seen.step_s or 0.0
    if seen.commit_s is None or (uploads and seen.upload_s is None):
        return planned_s + step_s
    return RESERVE_MARGIN_S + step_s + 2 * seen.commit_s + 2 * (seen.upload_s or 0.0)


def differs_materially(before_s: float, after_s: float) -> bool:
    """Whether somebody would want to know: by half a minute and by a quarter."""
    return abs(after_s - before_s) >= max(30.0, 0.25 * before_s)


def time_left_s(deadline_left_s: float, limit_left_s: float, reserve: float) -> float:
    """Until training is asked to stop: what the user granted, and what the money leaves room for."""
    return min(deadline_left_s, limit_left_s - reserve)


def out_of_time(
    deadline_left_s: float, limit_left_s: float = float("inf"), reserve: float = 0.0
) -> Optional[wire.Failed]:
    """Which of the two the clock has ended the run by; None while there is time."""
    if deadline_left_s <= 0:
        return DEADLINE_REACHED
    return MONEY_SPENT if limit_left_s <= reserve else None


def worth_keeping(
    checkpoints: Sequence[wire.CommittedFolder], output: Optional[wire.CommittedFolder]
) -> Optional[wire.CommittedFolder]:
    """The one folder from which everything else can be made again, on however many machines: the model, else the
    newest checkpoint. None before anything is committed.
    """
    newest = max(checkpoints, key=lambda folder: folder.step, default=None)
    if output is not None and (newest is None or output.step >= newest.step):
        return output
    return newest


def on_lapse(kept: Collection[wire.CommittedFolder], saved: Collection[str]) -> wire.LapseAction:
    """`kept`: what is worth keeping, of every run on the machine. `saved`: manifests that are verified elsewhere."""
    return "terminate" if all(folder.manifest_sha256 in saved for folder in kept) else "stop"


def last_lease_s(ended: wire.Event, safe: bool, wait_for_laptop_s: float, contact_ago_s: Optional[float]) -> float:
    """How long the machine stays after its run has ended, before the guard gives it back.

    `safe`: nothing on its disk is an only copy. Then nobody need wait, except for a laptop that is here already, and
    for one that has to learn why a run failed: away, it would take another machine only to see it fail again.
    """
    needs_nobody = isinstance(ended, (wire.Done, wire.Stopped)) or ended in (DEADLINE_REACHED, MONEY_SPENT)
    if not safe or not needs_nobody:
        return wait_for_laptop_s
    if contact_ago_s is not None and contact_ago_s < CONTACT_S:
        return min(wait_for_laptop_s, CONTACT_S - contact_ago_s)
    return 0.0


def last_word(action: wire.LapseAction, in_s: float) -> wire.SelfReleased:
    """What the guard will do, for whoever reads the log."""
    verb = "stops and keeps its disk" if action == "stop" else "is given back"
    when = "now" if in_s < 60 else f"in {in_s / 60:.0f} min unless a laptop calls before"
    return wire.SelfReleased(f"it {verb} {when}", action=action, in_s=round(in_s, 1))


def proof_of(proven: Optional[bool], answer: str) -> wire.SelfReleased:
    """What the guard's probe has shown, before training."""
    if proven is None:
        return wire.SelfReleased("whether it can give itself back is not known yet: the probe has no answer")
    if proven:
        return wire.SelfReleased(f"it can give itself back: the probe was answered with HTTP {answer}", proven=True)
    said = "got no answer" if answer == "000" else f"was answered with HTTP {answer}"
    return wire.SelfReleased(f"it may be unable to give itself back: the probe {said}", proven=False)


UNPROVEN = wire.Warned(
    "this machine has not shown that it can give itself back",
    "keep the laptop in contact, or look at `cloudbooth ps` when it is back: the plan states the worst case",
)
