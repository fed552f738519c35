"""Every error a user may see, from its root.

    CloudboothError(message, hint)          the fact, and something that can be pasted
    ├── AuthRejected                        credentials missing, wrong or without the needed right
    ├── NoCapacity                          nothing that fits is for rent right now
    ├── QuotaExceeded                       the account may not rent more
    ├── UnsupportedMarket                   this provider does not rent that way
    ├── MachineGone                         the machine does not exist (any more)
    ├── Transient                           worth another try, after `retry_after_s` when the service says so
    └── Indeterminate                       the request may or may not have taken effect: look, never repeat

The orchestrator's own errors (hosts, specs, ledger) derive from the same root in `orchestrator.errors`.
"""

from __future__ import annotations

PASSES_MOSTLY = "try again in a minute; when it does not pass, look whether this computer is online"


class CloudboothError(Exception):
    """The fact in `message` (no final period), the next step in `hint` (a command where one exists)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class AuthRejected(CloudboothError):
    """The service refused the credentials. Never worth a retry."""


class NoCapacity(CloudboothError):
    """Nothing that fits is for rent right now; another offer may be."""


class QuotaExceeded(CloudboothError):
    """The account has reached a limit (machines, money); another offer of this provider will not help."""


class UnsupportedMarket(CloudboothError):
    """The provider does not rent in the market that was asked for."""


class MachineGone(CloudboothError):
    """The provider says, by status code or structured field, that this machine does not exist."""


class Transient(CloudboothError):
    """A failure that says nothing about the request: connection refused, 429, 5xx."""

    def __init__(self, message: str, hint: str = PASSES_MOSTLY, retry_after_s: float | None = None) -> None:
        super().__init__(message, hint)
        self.retry_after_s = retry_after_s


class Indeterminate(CloudboothError):
    """The answer was lost after the request may have taken effect. Settle it by `list`, never by repeating."""
