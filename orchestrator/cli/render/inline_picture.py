"""Pictures in the terminal itself, where it can: kitty's and iTerm2's protocols. Elsewhere nothing is printed.

https://sw.kovidgoyal.net/kitty/graphics-protocol/ and https://iterm2.com/documentation-images.html
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import ControlType, Segment

ROWS = 10
"""Lines of text that a picture takes."""
MAX_BYTES = 4_000_000


class Protocol(Enum):
    KITTY = "kitty"
    ITERM = "iterm"


def protocol_of(environ: Mapping[str, str]) -> Protocol | None:
    """By what the terminal says of itself. Inside tmux and screen there is none: they swallow the sequences."""
    if environ.get("TMUX") or environ.get("STY") or environ.get("CLOUDBOOTH_NO_PICTURES"):
        return None
    if environ.get("KITTY_WINDOW_ID") or environ.get("TERM", "") in ("xterm-kitty", "xterm-ghostty"):
        return Protocol.KITTY
    if environ.get("TERM_PROGRAM", "") in ("iTerm.app", "WezTerm"):
        return Protocol.ITERM
    return None


def sequence(protocol: Protocol, path: Path, rows: int = ROWS) -> str:
    """What draws a PNG file at the cursor, `rows` lines high; empty for a file that is missing or too large."""
    try:
        content = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
    except OSError:
        return ""
    if not content:
        return ""
    encoded = base64.b64encode(content).decode()
    if protocol is Protocol.ITERM:
        return f"\x1b]1337;File=inline=1;size={len(content)};height={rows};preserveAspectRatio=1:{encoded}\x07"
    # In pieces of 4096; f=100 is PNG, q=2 wants no answer, C=1 leaves the cursor where it is.
    pieces = [encoded[at : at + 4096] for at in range(0, len(encoded), 4096)]
    keys = [f"a=T,f=100,q=2,C=1,r={rows},"] + [""] * (len(pieces) - 1)
    more = [1] * (len(pieces) - 1) + [0]
    return "".join(f"\x1b_G{key}m={flag};{piece}\x1b\\" for key, flag, piece in zip(keys, more, pieces, strict=True))


class InlinePicture:
    """For `Console.print`: makes room first, so that a picture at the last line scrolls with the text."""

    def __init__(self, drawing: str, rows: int = ROWS) -> None:
        self._drawing, self._rows = drawing, rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment("\n" * self._rows)
        drawn = f"\x1b[{self._rows}A\x1b7{self._drawing}\x1b8\x1b[{self._rows}B"
        # A segment with a control code is written as it is and counts as no columns; which code, nobody looks at.
        yield Segment(drawn, None, [(ControlType.BELL,)])
