"""When a person is told that something happened to a run: it ended, it lost its machine, or it waits for them."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.cli.render.summary import Summary
from orchestrator.lifecycle import State
from orchestrator.notify import Notice, Notifier
from orchestrator.progress import Progress
from orchestrator.reporter import Reporter
from providers.errors import CloudboothError
from remote_trainer import wire

TROUBLE = frozenset({State.RECOVERING, State.RESCUING})


class TellingOfTrouble:
    """A reporter that passes everything on, and notifies of states that nobody hoped for."""

    def __init__(self, inner: Reporter, notifier: Notifier, run: str, cost_usd: Callable[[], float]) -> None:
        self._inner, self._notifier, self._run, self._cost_usd = inner, notifier, run, cost_usd

    def moved(self, state: State, why: str) -> None:
        self._inner.moved(state, why)
        if state in TROUBLE:
            title = f"{self._run} is {state.value}"
            self._notifier.tell(Notice(self._run, "trouble", state.value, title, why, round(self._cost_usd(), 4)))

    def event(self, envelope: wire.Envelope, progress: Progress) -> None:
        self._inner.event(envelope, progress)

    def transfer(self, what: str, done_bytes: int, total_bytes: int) -> None:
        self._inner.transfer(what, done_bytes, total_bytes)

    def arrived(self, what: str, path: str) -> None:
        self._inner.arrived(what, path)

    def note(self, text: str) -> None:
        self._inner.note(text)


def ended_notice(summary: Summary) -> Notice:
    title = f"{summary.run}: {summary.reason.replace('-', ' ')}"
    told = [f"step {summary.step} of {summary.steps}, ${summary.cost_usd:.2f}"]
    told += [text for text in (summary.message, summary.output or summary.checkpoint) if text]
    return Notice(summary.run, "ended", summary.reason, title, "; ".join(told), summary.cost_usd)


def error_notice(run: str, error: CloudboothError, cost_usd: float) -> Notice:
    """The driver has stopped: the machine goes on, and somebody has to come."""
    message = f"{error.message}; {error.hint}" if error.hint else error.message
    return Notice(run, "trouble", "error", f"{run} needs you", message, round(cost_usd, 4))
