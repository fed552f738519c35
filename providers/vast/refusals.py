"""What an answer that is no success means. Pure: the service's words in, one of our errors out.

The service reports one thing under several codes (an offer that is taken: 400, 404, 409 or 410) and several things
under one (404: a wrong key, a taken offer, a machine that is gone), so `error` and `msg` decide before the status does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from providers.errors import (
    AuthRejected,
    CloudboothError,
    Indeterminate,
    MachineGone,
    NoCapacity,
    QuotaExceeded,
    Transient,
)

KEYS_PAGE = "https://cloud.vast.ai/manage-keys/"
BILLING_PAGE = "https://cloud.vast.ai/billing/"
KEY_HINT = f"make a key at {KEYS_PAGE} and `export VAST_API_KEY=...`"

_AUTH = ("invalid user key", "auth_error", "requires login", "not_authorized", "not authorized")
_MONEY = ("insufficient_credit", "spend_rate_limit", "missing_billing", "lacking credit", "lack of credit")
_TAKEN = ("no_such_ask", "resources_unavailable", "not available", "no longer available", "invalid_price", "403/3586")
_GONE = ("no_such_instance", "not_found", "invalid_id")
_FREQUENT = ("too frequent", "rate_limit_exceeded")


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    retry_after: str | None = None
    """The header."""

    @cached_property
    def body(self) -> Mapping[str, object]:
        """The JSON object; empty when the text is none."""
        try:
            found = json.loads(self.text)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def is_success(self) -> bool:
        """A 200 may carry `success: false`."""
        return 200 <= self.status < 300 and self.body.get("success") is not False

    @property
    def words(self) -> str:
        """What was said, in lower case: `error`, `msg` and `detail`, or the text when there is no such thing."""
        said = [str(self.body[name]) for name in ("error", "msg", "detail") if self.body.get(name)]
        return (" ".join(said) or self.text).lower()

    @property
    def shown(self) -> str:
        """One short line for a person."""
        said = self.body.get("msg") or self.body.get("detail") or self.body.get("error") or self.text
        return " ".join(str(said).split())[:200] or "nothing"

    @property
    def contract(self) -> int | None:
        """The instance that a `create` has made; present in failures, too."""
        found = self.body.get("new_contract")
        return found if isinstance(found, int) and not isinstance(found, bool) else None

    def says(self, *words: str) -> bool:
        return any(word in self.words for word in words)


def retry_after_s(answer: Answer) -> float | None:
    """From the header, the body, or the threshold in the text, whichever is there."""
    for found in (answer.retry_after, answer.body.get("retry_after")):
        try:
            return max(0.0, float(str(found)))
        except ValueError:
            continue  # the header may be a date, which no source has seen here
    threshold = re.search(r"threshold=([0-9.]*[0-9])", answer.text)
    return float(threshold[1]) if threshold else None


def refusal(answer: Answer, what: str) -> CloudboothError:
    """The error for an answer to anything but `create`. `what` names the request: `search offers`."""
    if answer.says("search_quota_exceeded"):
        return QuotaExceeded(
            f"Vast.ai allows no more searches today: {answer.shown}", "the quota begins anew at midnight UTC"
        )
    if answer.says(*_FREQUENT) or answer.status == 429:
        return Transient(f"Vast.ai asks for fewer requests ({what})", retry_after_s=retry_after_s(answer))
    if answer.says(*_AUTH) or answer.status in (401, 403):
        return AuthRejected(f"Vast.ai does not accept the key for this ({what}): {answer.shown}", KEY_HINT)
    if answer.says(*_MONEY) or answer.status == 402:
        return QuotaExceeded(f"Vast.ai lets this account rent no more: {answer.shown}", f"look at {BILLING_PAGE}")
    if answer.body and (answer.says(*_GONE) or answer.status == 404):
        return MachineGone(f"Vast.ai knows no such instance ({what})")
    if answer.status == 404:  # of a proxy, or of another path: it proves no absence
        return CloudboothError(f"something that is not Vast.ai answers 404 ({what})", "check VAST_URL and the proxy")
    if answer.status >= 500 or answer.status == 408:
        return Transient(f"Vast.ai answers {answer.status} ({what})")
    if 300 <= answer.status < 400:
        return CloudboothError(f"Vast.ai sends us elsewhere ({what}): {answer.status}", "check VAST_URL")
    return CloudboothError(f"Vast.ai refuses ({what}): {answer.status} {answer.shown}", "cloudbooth gpus")


@dataclass(frozen=True)
class Rented:
    instance: int


@dataclass(frozen=True)
class Leaked:
    """The request failed and made an instance all the same, which bills at least for its disk."""

    instance: int
    why: str


def outcome_of_create(answer: Answer) -> Rented | Leaked:
    """What `PUT /asks/` came to. Raises Indeterminate unless the answer proves that nothing was rented."""
    if answer.contract is not None:
        return Rented(answer.contract) if answer.is_success else Leaked(answer.contract, answer.shown)
    raise _create_refusal(answer)


def _create_refusal(answer: Answer) -> CloudboothError:
    taken = answer.says(*_TAKEN) or answer.status in (404, 409, 410)
    if taken and not answer.says(*_AUTH, *_MONEY) and answer.status != 429:
        return NoCapacity(f"the offer is taken: {answer.shown}", "cloudbooth gpus")
    if answer.status >= 500 or answer.status == 408 or 200 <= answer.status < 400:
        told = refusal(answer, "create")
        if isinstance(told, QuotaExceeded) and answer.status < 400:
            return told
        return Indeterminate(f"Vast.ai answered a create with {answer.status} and no instance: {answer.shown}")
    return refusal(answer, "create")
