"""Text of the other side for a terminal: a machine may be a stranger's, and a terminal obeys more than it shows."""

from __future__ import annotations

import re
from typing import Any

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Every control character but tabulator and line feed: titles, colors, cursors, answers typed into the shell."""


def plain_text(text: str) -> str:
    """`text`, U+FFFD in place of each character that a terminal would obey. Twice is safe."""
    return _OBEYED.sub("\ufffd", text)


def plain_data(value: Any) -> Any:
    """JSON data, all texts in it plain, keys too."""
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, list):
        return [plain_data(item) for item in value]
    if isinstance(value, dict):
        return {plain_text(key): plain_data(item) for key, item in value.items()}
    return value
