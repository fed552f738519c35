"""The end of a command's stderr, for error messages: floods of it must cost neither memory nor the terminal."""

from __future__ import annotations

from remote_trainer.wire import plain_text


class Tail:
    """Keeps the last `limit_bytes` of what is added."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept = bytearray()

    def add(self, data: bytes) -> None:
        self._kept += data
        del self._kept[: -self._limit_bytes]

    def text(self, lines: int = 5) -> str:
        """The last lines, joined by ` / `, undecodable bytes and what a terminal obeys replaced."""
        said = bytes(self._kept).decode(errors="replace").strip().splitlines()
        return " / ".join(plain_text(line.strip()) for line in said[-lines:] if line.strip())
