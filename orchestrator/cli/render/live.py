"""A running driver on the terminal: a live line where there is a terminal, plain lines elsewhere, JSON on request."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from orchestrator.cli.render.events import describe, volume
from orchestrator.cli.render.pipe import OutputThatMayClose
from orchestrator.lifecycle import State
from orchestrator.progress import Progress
from orchestrator.reporter import Reporter
from orchestrator.transfer.pace import Pace
from remote_trainer import wire

CostUsd = Callable[[], float]
"""What the run has cost up to now."""

STEP_LINE_EVERY_S = 5.0
"""Without a live line, steps are printed this often at most."""
TRANSFER_LINE_EVERY_S = 5.0


class JsonReporter:
    """One JSON object a line; `type` tells which."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._guard = threading.Lock()

    def write(self, data: dict[str, Any]) -> None:
        with self._guard:
            self._out.write(json.dumps(data) + "\n")
            self._out.flush()

    def moved(self, state: State, why: str) -> None:
        self.write({"type": "state", "state": state.value, "why": why})

    def event(self, envelope: wire.Envelope, progress: Progress) -> None:
        self.write({"type": "event", "event": json.loads(wire.encode_event(envelope.event, envelope.seq, envelope.t))})

    def transfer(self, what: str, done_bytes: int, total_bytes: int) -> None:
        self.write({"type": "transfer", "what": what, "done_bytes": done_bytes, "total_bytes": total_bytes})

    def arrived(self, what: str, path: str) -> None:
        self.write({"type": "arrived", "what": what, "path": path})

    def note(self, text: str) -> None:
        self.write({"type": "note", "text": text})


class PlainReporter:
    """Lines with the time, for pipes, logs and screen readers. Never redraws anything."""

    def __init__(self, console: Console, cost_usd: CostUsd) -> None:
        self._console = console
        self._cost_usd = cost_usd
        self._step_at = 0.0
        self._transfer_at = 0.0
        self._paces: defaultdict[str, Pace] = defaultdict(Pace)

    def moved(self, state: State, why: str) -> None:
        self._line(f"[bold]{state.value}[/] [dim]{escape(why)}[/]")

    def event(self, envelope: wire.Envelope, progress: Progress) -> None:
        if isinstance(envelope.event, wire.StepDone):
            now = time.monotonic()
            if now - self._step_at < STEP_LINE_EVERY_S and envelope.event.step != envelope.event.of:
                return
            self._step_at = now
        text = self._describe(envelope.event, progress)
        if text is not None:
            self._line(text)

    def transfer(self, what: str, done_bytes: int, total_bytes: int) -> None:
        now = time.monotonic()
        self._paces[what].told(done_bytes, now)
        if done_bytes >= total_bytes or now - self._transfer_at >= TRANSFER_LINE_EVERY_S:
            self._transfer_at = now
            self._line(f"{escape(what)}: {self._progress(what, done_bytes, total_bytes)}")

    def _progress(self, what: str, done_bytes: int, total_bytes: int) -> str:
        """With the time that is left, when it can be told."""
        left_s = self._paces[what].seconds_left(total_bytes, time.monotonic())
        if done_bytes >= total_bytes:
            del self._paces[what]
            left_s = None
        left = "" if left_s is None else f", {left_s / 60:.0f} min left" if left_s > 90 else f", {left_s:.0f} s left"
        return f"{volume(done_bytes)} of {volume(total_bytes)}{left}"

    def arrived(self, what: str, path: str) -> None:
        self._line(f"{escape(what)} is here: {escape(path)}")

    def note(self, text: str) -> None:
        self._line(f"[yellow]{escape(text)}[/]")

    def _describe(self, event: wire.Event, progress: Progress) -> str | None:
        text = describe(event, progress)
        return f"{text}, ${self._cost_usd():.2f} so far" if isinstance(event, wire.StepDone) else text

    def _line(self, text: str) -> None:
        self._console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {text}", highlight=False, soft_wrap=True)


class LiveReporter(PlainReporter):
    """Plain lines for what stays, and below them bars for training and transfer."""

    def __init__(self, bars: Bars, cost_usd: CostUsd) -> None:
        super().__init__(bars.console, cost_usd)
        self._bars = bars
        self._training: TaskID | None = None
        self._transfers: dict[str, TaskID] = {}

    def event(self, envelope: wire.Envelope, progress: Progress) -> None:
        if not isinstance(envelope.event, wire.StepDone):
            super().event(envelope, progress)
            return
        if self._training is None:
            self._training = self._bars.add_task("training", total=progress.of, detail="")
        text = self._describe(envelope.event, progress) or ""
        self._bars.update(self._training, completed=progress.step, total=progress.of, detail=text)

    def transfer(self, what: str, done_bytes: int, total_bytes: int) -> None:
        if what not in self._transfers:
            self._transfers[what] = self._bars.add_task(what, total=total_bytes, detail="")
        self._paces[what].told(done_bytes, time.monotonic())
        detail = self._progress(what, done_bytes, total_bytes)
        self._bars.update(self._transfers[what], completed=done_bytes, total=total_bytes, detail=detail)
        if done_bytes >= total_bytes:
            self._bars.remove_task(self._transfers.pop(what))


@contextmanager
def reporter_for(as_json: bool, cost_usd: CostUsd) -> Iterator[Reporter]:
    """JSON when asked for, live bars on a terminal, plain lines otherwise. `cost_usd` is asked at every step shown."""
    with redirect_stdout(OutputThatMayClose(sys.stdout)):
        if as_json:
            yield JsonReporter(sys.stdout)
            return
        console = Console()
        if not console.is_terminal:
            yield PlainReporter(console, cost_usd)
            return
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[detail]}"))
        with Bars(*columns, console=console, transient=True) as bars:
            yield LiveReporter(bars, cost_usd)
