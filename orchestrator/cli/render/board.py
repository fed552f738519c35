"""What stands below the scrolling lines while a run is watched: where it is, how long yet, for how much.

`Board` gathers what a reporter is told; `board_lines` is a pure function of it, of the width and of the time, so that
every terminal can be tested. What cannot be told yet is left out, never guessed: a time that is left is either measured
or says that it was estimated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.text import Text

from orchestrator.cli.render.events import volume
from orchestrator.cli.render.spans import span
from orchestrator.cli.render.sparkline import bar, sparkline
from orchestrator.lifecycle import State
from orchestrator.progress import Progress
from orchestrator.transfer.pace import Pace
from remote_trainer import wire

MAX_LOSSES = 2000
SHOWN_WARNINGS = 2
LEAST_BAR, MOST_BAR = 8, 40
LABEL_WIDTH = 11
NARROW = 60
"""Columns; below it the less important half of a line is left out."""
_PHASE_OF_STATE = {State.PROVISIONING: "boot", State.RETRIEVING: "bring home"}
_PHASE_OF_EVENT = {"environment": "environment", "load": "base", "encode": "load and encode", "export": "export"}


@dataclass(frozen=True)
class Quoted:
    """What the accepted plan said about time and money, as far as it said anything."""

    run: str = ""
    ceiling_usd: float | None = None
    """None where nothing is rented."""
    phase_s: Mapping[str, float] = field(default_factory=dict)
    """Phase of the quote → seconds expected."""

    @classmethod
    def of_plan(cls, run: str, plan_json: str) -> Quoted:
        """Never raises: a plan of another version may lack anything."""
        try:
            rental = json.loads(plan_json)["rental"]
            phases = {each["name"]: float(each["seconds"]["expected"]) for each in rental["quote"]["phases"]}
            return cls(run, float(rental["ceiling_usd"]), phases)
        except (ValueError, KeyError, TypeError):
            return cls(run)


@dataclass
class _Transfer:
    done_bytes: int = 0
    total_bytes: int = 0
    pace: Pace = field(default_factory=Pace)


class Board:
    """What was told so far. Not safe for threads: its reporter holds a lock. Times are seconds of one clock."""

    def __init__(self, quoted: Quoted = Quoted()) -> None:
        self.quoted = quoted
        self.states: list[tuple[State, float]] = []
        self.phase: tuple[str, str, float] | None = None
        """Of the host: name, detail, since when."""
        self.progress = Progress()
        self.losses: list[float] = []
        self.transfers: dict[str, _Transfer] = {}
        self.warnings: list[str] = []
        self.picture: str | None = None
        self._keeps_every = 1
        self._steps_told = 0

    def moved(self, state: State, at: float) -> None:
        self.states.append((state, at))
        self.phase = None

    def event(self, event: wire.Event, progress: Progress, at: float) -> None:
        self.progress = progress
        if isinstance(event, wire.PhaseStarted):
            same = self.phase is not None and self.phase[0] == event.name
            self.phase = (event.name, event.detail, self.phase[2] if same and self.phase else at)
        elif isinstance(event, wire.StepDone):
            if event.loss is not None:
                self._add_loss(event.loss)
        elif isinstance(event, wire.Warned):
            self.warn(event.message)

    def transfer(self, what: str, done_bytes: int, total_bytes: int, at: float) -> None:
        moving = self.transfers.setdefault(what, _Transfer())
        moving.done_bytes, moving.total_bytes = done_bytes, total_bytes
        moving.pace.told(done_bytes, at)
        if done_bytes >= total_bytes:
            del self.transfers[what]

    def arrived(self, what: str, path: str) -> None:
        if what == "picture":
            self.picture = path

    def warn(self, text: str) -> None:
        """Said again, it moves to the end."""
        self.warnings = [*[each for each in self.warnings if each != text][-20:], text]

    def _add_loss(self, loss: float) -> None:
        """A long run keeps every other, then every fourth, …: a line shows no more anyway."""
        self._steps_told += 1
        if self._steps_told % self._keeps_every:
            return
        self.losses.append(loss)
        if len(self.losses) > MAX_LOSSES:
            self.losses = self.losses[1::2]
            self._keeps_every *= 2


def board_lines(board: Board, cost_usd: float, width: int, now: float, *, ascii_only: bool = False) -> list[Text]:
    """Top to bottom, each at most `width` columns wide."""
    lines = [_head(board, cost_usd, width, now), *_history(board, width, now)]
    if board.progress.of:
        lines.append(_training(board, width, ascii_only))
    if len(board.losses) > 1:
        lines.append(_loss(board, width, ascii_only))
    for what, moving in board.transfers.items():
        lines.append(_transfer(what, moving, width, now, ascii_only))
    if board.picture is not None:
        lines.append(_labeled("picture", _end_of(board.picture, width - LABEL_WIDTH, ascii_only)))
    lines += [_labeled("warning", warning, "yellow") for warning in board.warnings[-SHOWN_WARNINGS:]]
    for line in lines:
        line.truncate(width, overflow="crop" if ascii_only else "ellipsis")
    return lines


# ---- lines ---------------------------------------------------------------------------------------------------------


def _head(board: Board, cost_usd: float, width: int, now: float) -> Text:
    """Name, what it is at, how long that has taken; the money at the right."""
    doing, since, expected_s = _doing(board)
    left = Text(board.quoted.run, style="bold")
    left.append(f"{'  ' if board.quoted.run else ''}{doing}", style="bold")
    if since is not None and width >= NARROW:
        left.append(f" {span(now - since)}", style="dim")
        if expected_s is not None:
            left.append(f" (about {span(expected_s)} expected)", style="dim")
    ceiling = board.quoted.ceiling_usd
    told = f"${cost_usd:.2f} so far" if ceiling is None else f"${cost_usd:.2f} of ${ceiling:.2f} at most"
    money = Text(told if width >= NARROW else told.replace(" at most", "").replace(" so far", ""))
    left.truncate(max(0, width - money.cell_len - 2), overflow="crop")
    left.append(" " * max(2, width - left.cell_len - money.cell_len))
    return left.append_text(money)


def _doing(board: Board) -> tuple[str, float | None, float | None]:
    """(words, since when, seconds the plan expected for it)."""
    if not board.states:
        return "starting", None, None
    state, since = board.states[-1]
    if state is State.TRAINING and board.phase is not None and board.phase[0] != "train":
        name, _, began = board.phase
        return f"{state.value}, {name}", began, board.quoted.phase_s.get(_PHASE_OF_EVENT.get(name, ""))
    return state.value, since, board.quoted.phase_s.get(_PHASE_OF_STATE.get(state, ""))


def _history(board: Board, width: int, now: float) -> list[Text]:
    """How long each state has taken so far; a state that was entered again adds up."""
    if len(board.states) < 2 or width < NARROW:
        return []
    ends = [*(at for _, at in board.states[1:]), now]
    spent: dict[State, float] = {}
    for (state, since), end in zip(board.states, ends, strict=True):
        if state is not State.PLANNED:
            spent[state] = spent.get(state, 0.0) + max(0.0, end - since)
    told = ", ".join(f"{state.value} {span(seconds)}" for state, seconds in spent.items())
    return [_labeled("so far", told, "dim")] if len(spent) > 1 else []


def _training(board: Board, width: int, ascii_only: bool) -> Text:
    progress = board.progress
    told = f"step {progress.step}/{progress.of}"
    if progress.eta_s is not None and progress.step < progress.of:
        told += f", {span(progress.eta_s)} left"
    if progress.images_per_s is not None and width >= NARROW + 10:
        told += f", {progress.images_per_s:.1f} images/s"
    return _with_bar("steps", progress.step / progress.of, told, width, ascii_only)


def _loss(board: Board, width: int, ascii_only: bool) -> Text:
    value = f"{board.progress.loss:.4f}  " if board.progress.loss is not None else ""
    curve = sparkline(board.losses, min(60, width - LABEL_WIDTH - len(value)), ascii_only=ascii_only)
    line = _labeled("loss", value)
    return line.append(curve, style="cyan")


def _transfer(what: str, moving: _Transfer, width: int, now: float, ascii_only: bool) -> Text:
    told = f"{volume(moving.done_bytes)} of {volume(moving.total_bytes)}"
    speed = moving.pace.bytes_per_s(now)
    if speed is not None and width >= NARROW:
        told += f", {volume(round(speed))}/s"
    left_s = moving.pace.seconds_left(moving.total_bytes, now)
    if left_s is not None:
        told += f", {span(left_s)} left"
    share = moving.done_bytes / moving.total_bytes if moving.total_bytes else 0.0
    return _with_bar(what, share, told, width, ascii_only)


def _with_bar(label: str, share: float, told: str, width: int, ascii_only: bool) -> Text:
    """The bar takes what the words leave, and goes where they leave too little."""
    line = _labeled(label, "")
    room = width - line.cell_len - len(told) - 2
    if room >= LEAST_BAR:
        line.append(bar(share, min(room, MOST_BAR), ascii_only=ascii_only), style="green").append("  ")
    return line.append(told)


def _labeled(label: str, told: str, style: str = "") -> Text:
    shown = label if len(label) < LABEL_WIDTH else label[: LABEL_WIDTH - 2] + "."
    return Text(f"{shown:<{LABEL_WIDTH}}", style="dim").append(told, style=style or "not dim")


def _end_of(path: str, width: int, ascii_only: bool) -> str:
    """The end of a path tells more than its beginning; the whole one scrolls by above."""
    if len(path) <= width or width < 4:
        return path
    mark = "..." if ascii_only else "…"
    return mark + path[len(path) - width + len(mark) :]


def thinned(lines: Sequence[Text], rows: int) -> list[Text]:
    """As many as fit `rows`, the first ones first: a window may be low."""
    return list(lines[: max(1, rows)])
