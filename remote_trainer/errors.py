"""The one way training ends badly on purpose. Standard library only, Python 3.9 or later."""

from __future__ import annotations

from .wire import FailureCode


class TrainingFailed(Exception):
    """Ends the run with a `failed` event: the fact, what kind of fact it is, and what the user can do about it."""

    def __init__(self, code: FailureCode, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code: FailureCode = code
        self.message = message
        self.hint = hint
