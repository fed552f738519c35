"""Standard output whose reader may go away: `launch … | head` must not end a run, nor hide what bills."""

from __future__ import annotations

import io
import os
from typing import TextIO


class OutputThatMayClose(io.TextIOBase):
    """Passes everything on until the reader is gone; then a driver goes on in silence."""

    def __init__(self, inner: TextIO) -> None:
        self._inner = inner

    def write(self, text: str) -> int:
        try:
            return self._inner.write(text)
        except BrokenPipeError:
            point_to_nowhere(self._inner)
            return len(text)

    def flush(self) -> None:
        try:
            self._inner.flush()
        except BrokenPipeError:
            point_to_nowhere(self._inner)

    def isatty(self) -> bool:
        return self._inner.isatty()

    def fileno(self) -> int:
        return self._inner.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # rich asks it what can be printed
        return self._inner.encoding


def point_to_nowhere(stream: TextIO) -> None:
    """What is still written there goes to /dev/null, at the interpreter's exit too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
