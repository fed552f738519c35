"""What became of each key of a file that was written for SimpleTuner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Translated:
    where: str
    """Id of the entry, or name of the file."""
    key: str
    value: str
    """As the file has it."""
    became: str
    """Keys of the spec with their values, or the effect in words; empty when it was ignored."""
    why: str = ""
    is_warned: bool = False
    """Ignored although it was meant to change the model."""


@dataclass
class Translation:
    """Grows while a file is read: parts of a raw spec, and a row for each key."""

    sets: list[dict[str, Any]] = field(default_factory=list)
    """As `[[data.sets]]`."""
    train: dict[str, Any] = field(default_factory=dict)
    """As `[train]`, for what the spec leaves open."""
    model: dict[str, Any] = field(default_factory=dict)
    """As `[model]`, likewise."""
    data: dict[str, Any] = field(default_factory=dict)
    """As `[data]`, likewise."""
    rows: list[Translated] = field(default_factory=list)

    def say(self, where: str, key: str, value: object, became: str, why: str = "") -> None:
        self.rows.append(Translated(where, key, shown(value), became, why))

    def ignore(self, where: str, key: str, value: object, why: str, *, warned: bool = False) -> None:
        self.rows.append(Translated(where, key, shown(value), "", why, warned))


def shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:g}" if isinstance(value, float) else str(value)
