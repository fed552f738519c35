"""What must hold in every world, whatever goes wrong. Each rule is checked when what it speaks of may have changed.

`ENABLED` holds today and is checked in every schedule. `BEYOND_TODAY` is what the product is going to promise: rules
that are written and can be tried with `--all`. Nothing is skipped in silence, `tests.simulation.run` prints both lists.
"""

from __future__ import annotations

from enum import Enum


class Invariant(Enum):
    INTENT_BEFORE_CREATE = "`create` is called at most once per intent, and never without one"
    ABSENCE_IS_TRUE = "a machine that the ledger calls absent does not exist"
    ENDED_RUN_HAS_NO_MACHINE = "a machine of an ended run is not billed"
    ONE_SUPERVISOR = "a run has one supervisor and one trainer at a time"
    ENDED_RUN_HAS_NO_PROCESS = "nothing of an ended run is left running on a machine that stays"
    WEIGHTS = "a finished run has the weights of the undisturbed one"
    ARTIFACTS = "what the ledger says has arrived lies on the laptop, whole"
    NO_LOST_WORK = "training goes on from the newest checkpoint that had left its machine, or a newer one"
    STALE_DRIVER_STARTS_NOTHING = "a driver that was overtaken starts, stops and removes nothing on a host"
    MIRROR = "the laptop's events are a prefix of the host's"
    NO_CRASH = "every failure of the driver in charge is an error for people, never a traceback"
    RECOVERY = "a run that lost its machine, driver or connection goes on; nobody has to do more than attach"
    IT_ENDS = "a run comes to its end when the faults do"

    STALE_DRIVER_SENDS_NOTHING = "a driver that was overtaken sends no file to a host"
    LEASE = "a rented machine that nobody is in charge of ends itself within its lease, and its guard is kept alive"
    CEILING = "all attempts together cost at most the ceiling and a minute"
    ONLY_COPY = "a machine that holds the only copy of something is not terminated while it can be stopped"
    LATECOMERS = "a day after the end no machine exists and none is shown, however late one became visible"


BEYOND_TODAY: frozenset[Invariant] = frozenset()
ENABLED = frozenset(Invariant) - BEYOND_TODAY


class Violation(BaseException):
    """Not an Exception: nothing in the product may catch it."""

    def __init__(self, invariant: Invariant, detail: str) -> None:
        super().__init__(f"{invariant.name}: {detail}")
        self.invariant, self.detail = invariant, detail

    def __reduce__(self) -> tuple[type[Violation], tuple[Invariant, str]]:
        return Violation, (self.invariant, self.detail)
