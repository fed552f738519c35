"""How a driver waits for a provider that does not answer: in short slices, with an eye on who else wants something."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.clock import Clock
from orchestrator.errors import StaleDriver, WishChanged
from orchestrator.ledger import Ledger
from orchestrator.lifecycle import State

WAIT_SLICE_S = 2.0


def waits_of_a_driver(ledger: Ledger, clock: Clock, run_name: str, epoch: int) -> Callable[[float], None]:
    """A sleep for `RetryingProvider`.

    Raises StaleDriver once another process has taken the run over, and WishChanged when its user wants it to end: an
    outage of the service may last for longer than a person waits for `down`. While the machine is given back there is
    nothing left to obey. With `epoch` 0, of one that only reads, it is a sleep and nothing else.
    """

    def wait(seconds: float) -> None:
        if not epoch:
            clock.sleep(seconds)
            return
        until, wish = clock.monotonic() + seconds, ledger.run(run_name).wish
        while (left := until - clock.monotonic()) > 0:
            clock.sleep(min(WAIT_SLICE_S, left))
            run = ledger.run(run_name)
            if run.driver_epoch != epoch:
                hint = f"cloudbooth attach {run_name}"
                raise StaleDriver(f"another process drives run `{run_name}` now", hint)
            ends = run.wish.ends_now and run.state not in (State.RELEASING, State.ENDED)
            if ends or run.wish is not wish:
                raise WishChanged(f"`{run.wish.value}` was asked for", f"cloudbooth attach {run_name}")

    return wait
