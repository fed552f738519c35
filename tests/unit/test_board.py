"""What stands on the terminal while a run is watched, on wide and narrow ones."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from orchestrator.cli.options import plain_is_wanted, plain_option
from orchestrator.cli.render.board import MAX_LOSSES, Board, Quoted, board_lines, thinned
from orchestrator.cli.render.inline_picture import MAX_BYTES, Protocol, protocol_of, sequence
from orchestrator.cli.render.live import LiveReporter
from orchestrator.cli.render.sparkline import bar, sparkline
from orchestrator.lifecycle import State
from orchestrator.progress import Progress, advance
from remote_trainer import wire

START = 1_790_000_000.0
PICTURE = "/home/somebody/.local/share/cloudbooth/runs/my-dog/validation/step-000600/00.png"
PLAN = {
    "rental": {
        "ceiling_usd": 5.0,
        "quote": {"phases": [{"name": "boot", "seconds": {"low": 30, "expected": 150, "high": 900}}]},
    }
}


def halfway() -> Board:
    """Rented, 620 of 1000 steps, a checkpoint on its way home."""
    board = Board(Quoted.of_plan("my-dog", json.dumps(PLAN)))
    progress = Progress()
    for state, at in ((State.PLANNED, 0), (State.PROVISIONING, 2), (State.SHIPPING, 132), (State.TRAINING, 173)):
        board.moved(state, START + at)
    for step in range(10, 621, 10):
        loss = 0.08 + 0.3 * math.exp(-step / 150)
        event: wire.Event = wire.StepDone(step, 1000, loss, 1e-4, 3.4, 11.2)
        progress = advance(progress, wire.Envelope(step, START + 200 + step * 0.9, event))
        board.event(event, progress, START + 200 + step * 0.9)
    board.transfer("checkpoint", 0, 33_000_000, START + 755)
    board.transfer("checkpoint", 12_300_000, 33_000_000, START + 758)
    board.arrived("picture", PICTURE)
    board.warn("the machine's self-release is not proven: while this laptop is away it may bill on")
    return board


def shown(board: Board, width: int, *, ascii_only: bool = False) -> str:
    lines = board_lines(board, 0.08, width, START + 758, ascii_only=ascii_only)
    assert max(line.cell_len for line in lines) <= width
    return "".join(f"{line.plain}\n" for line in lines)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_board_fits_every_width(width: int, snapshot: Callable[[str, str], None]) -> None:
    snapshot(f"{width}_columns", shown(halfway(), width))


def test_a_terminal_without_unicode_gets_letters(snapshot: Callable[[str, str], None]) -> None:
    told = shown(halfway(), 80, ascii_only=True)
    told.encode("ascii")
    snapshot("ascii", told)


def test_before_anything_has_happened_it_says_so() -> None:
    assert shown(Board(Quoted("my-dog")), 80).startswith("my-dog  starting")


def test_waiting_for_a_machine_comes_with_what_the_plan_expected() -> None:
    board = Board(Quoted.of_plan("my-dog", json.dumps(PLAN)))
    board.moved(State.PROVISIONING, START + 700)
    assert "provisioning 58 s (about 2 min 30 s expected)" in shown(board, 80)


def test_a_phase_on_the_machine_is_named_and_timed() -> None:
    board = Board()
    board.moved(State.TRAINING, START)
    board.event(wire.PhaseStarted("environment"), Progress(), START + 700)
    board.event(wire.PhaseStarted("environment", "installing torch"), Progress(), START + 720)
    assert "training, environment 58 s" in shown(board, 80)


def test_a_state_that_is_entered_again_adds_up() -> None:
    board = Board()
    for state, at in ((State.PROVISIONING, 0), (State.TRAINING, 100), (State.RECOVERING, 200), (State.TRAINING, 700)):
        board.moved(state, START + at)
    assert "training 2 min 38 s" in shown(board, 120)


def test_what_is_warned_of_stays_and_is_told_once() -> None:
    board = Board()
    for text in ("one", "two", "one", "three"):
        board.warn(text)
    assert board.warnings == ["two", "one", "three"]
    assert [line.split()[-1] for line in shown(board, 80).splitlines()[1:]] == ["one", "three"]


def test_a_transfer_that_is_complete_goes() -> None:
    board = halfway()
    board.transfer("checkpoint", 33_000_000, 33_000_000, START + 759)
    assert "checkpoint" not in shown(board, 80)


def test_a_long_run_keeps_a_bounded_number_of_losses_and_its_beginning() -> None:
    board = Board()
    for step in range(20_000):
        board.event(wire.StepDone(step, 20_000, float(step), 1e-4, 1.0), Progress(), START)
    assert len(board.losses) <= MAX_LOSSES
    assert board.losses[0] < 100
    assert board.losses == sorted(board.losses)


def test_a_low_window_keeps_the_first_lines() -> None:
    lines = board_lines(halfway(), 0.0, 80, START + 758)
    assert thinned(lines, 2) == lines[:2]
    assert thinned(lines, 0) == lines[:1]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"rental": null}', '{"rental": {"quote": {"phases": [1]}}}'])
def test_a_plan_that_says_nothing_of_money_is_no_error(text: str) -> None:
    assert Quoted.of_plan("my-dog", text) == Quoted("my-dog")


# ---- curves and bars -------------------------------------------------------------------------------------------------


def test_a_curve_goes_from_the_lowest_to_the_highest_sign() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8) == "█▇▆▅▄▃▂▁"
    assert sparkline([1.0] * 5, 5) == "▁▁▁▁▁"
    assert sparkline([], 5) == sparkline([1.0], 0) == ""


def test_many_values_share_a_cell() -> None:
    assert sparkline([0, 0, 0, 0, 4, 4, 4, 4], 2, ascii_only=True) == "_@"


def test_a_bar_is_as_long_as_it_should_be() -> None:
    assert bar(0.5, 8, ascii_only=True) == "####...."
    assert bar(1.5, 4, ascii_only=True) == "####"


# ---- the reporter ----------------------------------------------------------------------------------------------------


def test_the_board_is_drawn_for_the_width_of_the_moment() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24, color_system=None)
    reporter = LiveReporter(console, halfway(), lambda: 0.08)
    with console.capture() as wide:
        console.print(reporter)
    console.size = type(console.size)(40, 24)
    with console.capture() as narrow:
        console.print(reporter)
    assert max(map(len, wide.get().splitlines())) > 60
    assert max(map(len, narrow.get().splitlines())) <= 40


def test_a_low_terminal_is_not_overrun() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=4, color_system=None)
    with console.capture() as drawn:
        console.print(LiveReporter(console, halfway(), lambda: 0.0))
    assert len(drawn.get().splitlines()) == 3


def test_steps_go_to_the_board_and_pictures_above_it() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None)
    reporter = LiveReporter(console, Board(), lambda: 0.0)
    event = wire.StepDone(1, 10, 0.5, 1e-4, 1.0)
    reporter.event(wire.Envelope(0, START, event), advance(Progress(), wire.Envelope(0, START, event)))
    reporter.arrived("picture", PICTURE)
    assert isinstance(console.file, io.StringIO)
    above = console.file.getvalue()
    assert "loss" not in above
    assert f"picture is here: {PICTURE}" in above


# ---- plain mode ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "environ", "plain"),
    [([], {}, False), (["--plain"], {}, True), ([], {"CLOUDBOOTH_PLAIN": "1"}, True)],
    ids=["usual", "flag", "variable"],
)
def test_plain_lines_are_asked_for_by_flag_or_variable(argv: list[str], environ: dict[str, str], plain: bool) -> None:
    asked = []

    @click.command()
    @plain_option
    def verb() -> None:
        asked.append(plain_is_wanted())

    CliRunner().invoke(verb, argv, env=environ)
    assert asked == [plain]


# ---- pictures in the terminal ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "protocol"),
    [
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "xterm-kitty"}, Protocol.KITTY),
        ({"TERM_PROGRAM": "iTerm.app"}, Protocol.ITERM),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, None),
        ({"TERM": "xterm-kitty", "CLOUDBOOTH_NO_PICTURES": "1"}, None),
    ],
    ids=["plain", "kitty", "iterm", "tmux", "unwanted"],
)
def test_terminals_that_draw_pictures_are_known_by_what_they_say(
    environ: dict[str, str], protocol: Protocol | None
) -> None:
    assert protocol_of(environ) is protocol


def test_kitty_gets_the_file_in_pieces_that_add_up(tmp_path: Path) -> None:
    file = tmp_path / "00.png"
    file.write_bytes(os.urandom(10_000))
    drawn = sequence(Protocol.KITTY, file)
    pieces = [piece.split(";", 1) for piece in drawn.split("\x1b_G")[1:]]
    assert base64.b64decode("".join(body.removesuffix("\x1b\\") for _, body in pieces)) == file.read_bytes()
    assert [keys.endswith("m=1") for keys, _ in pieces] == [True] * (len(pieces) - 1) + [False]
    assert all(len(body) <= 4096 + 2 for _, body in pieces)


def test_iterm_gets_the_file_in_one_piece(tmp_path: Path) -> None:
    file = tmp_path / "00.png"
    file.write_bytes(b"picture")
    drawn = sequence(Protocol.ITERM, file)
    assert drawn.startswith("\x1b]1337;File=inline=1;size=7;")
    assert drawn.endswith(base64.b64encode(b"picture").decode() + "\x07")


def test_what_is_gone_or_huge_is_not_drawn(tmp_path: Path) -> None:
    file = tmp_path / "00.png"
    assert sequence(Protocol.KITTY, file) == ""
    file.write_bytes(bytes(MAX_BYTES + 1))
    assert sequence(Protocol.KITTY, file) == ""
