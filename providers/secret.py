"""A credential that cannot be shown by accident."""

from __future__ import annotations

from typing import NoReturn


class Secret:
    """Holds a credential. Its repr and str are redacted, and it refuses pickle, copy and (having no data) JSON.

    `reveal` is the only way to the value: grep for it to see every place a credential is used.
    """

    __slots__ = ("_value", "name")

    def __init__(self, value: str, name: str) -> None:
        self._value = value
        self.name = name

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return f"Secret({self.name}, redacted)"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} must not be pickled or copied")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))
