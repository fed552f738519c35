"""A running driver on the terminal: a live board where there is one, plain lines elsewhere, JSON on request."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markup import escape

from orchestrator.cli.options import plain_is_wanted
from orchestrator.cli.render.board import Board, Quoted, board_lines, thinned
from orchestrator.cli.render.events import describe, volume
from orchestrator.cli.render.inline_picture import InlinePicture, Protocol, protocol_of, sequence
from orchestrator.cli.render.pipe import OutputThatMayClose
from orchestrator.lifecycle import State
from orchestrator.mirror import EventReader
from orchestrator.progress import Progress
from orchestrator.reporter import Reporter
from orchestrator.transfer.pace import Pace
from orchestrator.wiring import Wiring
from remote_trainer import wire

CostUsd = Callable[[], float]
"""What the run has cost up to now."""

STEP_LINE_EVERY_S = 5.0
"""Without a board, steps are printed this often at most."""
TRANSFER_LINE_EVERY_S = 5.0
PLAIN_STEP_LINE_EVERY_S = 30.0
"""With `--plain`: a screen reader speaks every line."""
COST_EVERY_S = 1.0


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

    def __init__(self, console: Console, cost_usd: CostUsd, step_line_every_s: float = STEP_LINE_EVERY_S) -> None:
        self._console = console
        self._cost_usd = cost_usd
        self._step_line_every_s = step_line_every_s
        self._step_at = 0.0
        self._transfer_at = 0.0
        self._paces: defaultdict[str, Pace] = defaultdict(Pace)

    def moved(self, state: State, why: str) -> None:
        self._line(f"[bold]{state.value}[/] [dim]{escape(why)}[/]")

    def event(self, envelope: wire.Envelope, progress: Progress) -> None:
        if isinstance(envelope.event, wire.StepDone):
            now = time.monotonic()
            if now - self._step_at < self._step_line_every_s and envelope.event.step != envelope.event.of:
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
    """Plain lines for what stays, and below them the board, drawn anew four times a second and after every resize."""

    def __init__(self, console: Console, board: Board, cost_usd: CostUsd, pictures: Protocol | None = None) -> None:
        super().__init__(console, cost_usd)
        self._board = board
        self._pictures = pictures
        self._guard = threading.Lock()
        self._cost, self._cost_at = 0.0, -math.inf

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now = time.time()
        if now - self._cost_at >= COST_EVERY_S:  # it is read from the ledger
            self._cost, self._cost_at = self._cost_usd(), now
        with self._guard:
            lines = board_lines(self._board, self._cost, options.max_width, now, ascii_only=options.ascii_only)
        yield from thinned(lines, console.size.height - 1)

    def moved(self, state: State, why: str) -> None:
        with self._guard:
            self._board.moved(state, time.time())
        super().moved(state, why)

    def event(self, envelope: wire.Envelope, progress: Progress) -> None:
        with self._guard:
            self._board.event(envelope.event, progress, time.time())
        if not isinstance(envelope.event, wire.StepDone):
            super().event(envelope, progress)

    def transfer(self, what: str, done_bytes: int, total_bytes: int) -> None:
        with self._guard:
            self._board.transfer(what, done_bytes, total_bytes, time.time())

    def arrived(self, what: str, path: str) -> None:
        with self._guard:
            self._board.arrived(what, path)
        super().arrived(what, path)
        if what == "picture" and self._pictures is not None and (drawing := sequence(self._pictures, Path(path))):
            self._console.print(InlinePicture(drawing))


def board_of(wiring: Wiring, run: str) -> Board:
    """What ledger and mirror know of a run already: one that is attached to has a past."""
    record = wiring.ledger.run(run)
    board = Board(Quoted.of_plan(run, record.plan_json))
    for move in wiring.ledger.moves(run):
        board.moved(move.to_state, move.at)
    reader = EventReader(wiring.home.run(run))
    for envelope in reader.fresh():
        board.event(envelope.event, reader.progress, envelope.t)
    pictures = sorted((wiring.home.run(run).root / wire.VALIDATION_FOLDER).glob("*/*.png"))
    if pictures:
        board.picture = str(pictures[-1])
    return board


@contextmanager
def reporter_for(as_json: bool, cost_usd: CostUsd, board: Callable[[], Board] = Board) -> Iterator[Reporter]:
    """JSON when asked for, a live board on a terminal, plain lines elsewhere and with `--plain`.

    `cost_usd` is asked at every step shown, `board` once, if there is one to be drawn.
    """
    with redirect_stdout(OutputThatMayClose(sys.stdout)):
        if as_json:
            yield JsonReporter(sys.stdout)
            return
        if plain_is_wanted():
            yield PlainReporter(Console(no_color=True, highlight=False), cost_usd, PLAIN_STEP_LINE_EVERY_S)
            return
        console = Console()
        if not console.is_terminal or console.is_dumb_terminal:
            yield PlainReporter(console, cost_usd)
            return
        reporter = LiveReporter(console, board(), cost_usd, protocol_of(os.environ))
        with Live(reporter, console=console, transient=True, refresh_per_second=4, vertical_overflow="crop"):
            yield reporter
