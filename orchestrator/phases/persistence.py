"""Going on across broken connections, for phases whose work is safe to repeat."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.host import ConnectionLost, HostUnreachable
from orchestrator.lifecycle import Facts, Wish
from orchestrator.phases.context import RunContext

FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 30.0
WISH_POLL_S = 1.0
LONG_WISH_POLL_S = 3.0


class Pauses:
    """Longer and longer waits between attempts to connect."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self.next_s = FIRST_PAUSE_S

    def reset(self) -> None:
        """A connection stood: the next loss is a new one."""
        self.next_s = FIRST_PAUSE_S

    def wait(self, *, heed_down: bool) -> bool:
        """With `heed_down`, true as soon as the user wants everything down. Raises StaleDriver."""
        clock = self._context.clock
        until = clock.monotonic() + self.next_s
        self.next_s = min(self.next_s * 2, LAST_PAUSE_S)
        while (left := until - clock.monotonic()) > 0:
            if heed_down and self._context.wish().ends_now:
                return True
            clock.sleep(min(WISH_POLL_S, left))
            self._context.require_driver()
        return False


def wait_while_wanted(context: RunContext, pause_s: float) -> None:
    """Waits, but not for a run that its user wants to end. Raises StaleDriver."""
    until = context.clock.monotonic() + pause_s
    while (left := until - context.clock.monotonic()) > 0:
        context.require_driver()
        if context.wish() is not Wish.RUN:
            return
        context.clock.sleep(min(LONG_WISH_POLL_S, left))


def until_down(context: RunContext, facts: Facts, work: Callable[[], Facts]) -> Facts:
    """`work()`, again after every lost connection for as long as it takes. `facts` when the user wants all down.

    On a rented machine a lost connection is raised at once: it bills, so the driver bounds the patience with it.
    """
    if not context.machine_stands:
        return work()
    pauses = Pauses(context)
    while True:
        try:
            return work()
        except (ConnectionLost, HostUnreachable) as error:
            context.reporter.note(f"{error.message}; trying again in {pauses.next_s:.0f} s")
            if pauses.wait(heed_down=True):
                return facts


def a_few_times(context: RunContext, work: Callable[[], Facts], attempts: int = 5) -> Facts:
    """`work()`, again after a lost connection, about a quarter of a minute in all. Raises the last loss.

    On a rented machine the first, as `until_down` does.
    """
    if not context.machine_stands:
        return work()
    pauses = Pauses(context)
    for _ in range(attempts - 1):
        try:
            return work()
        except (ConnectionLost, HostUnreachable) as error:
            context.reporter.note(f"{error.message}; trying again in {pauses.next_s:.0f} s")
            pauses.wait(heed_down=False)
    return work()
