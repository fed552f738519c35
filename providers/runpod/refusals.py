"""What an answer that is no success means. Pure.

Text comes before status where capacity is concerned: the same sentence has been seen with 400 and with 500, and REST
has no field for it. The order of the rules matters, since the texts of lasting and passing faults overlap.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum

from providers.errors import (
    AuthRejected,
    CloudboothError,
    Indeterminate,
    MachineGone,
    NoCapacity,
    QuotaExceeded,
    Transient,
)
from providers.installation import upgrading

KEYS_PAGE = "https://console.runpod.io/user/settings"
BILLING_PAGE = "https://console.runpod.io/user/billing"

_NO_CAPACITY = re.compile(
    r"no longer any instances available|please refresh and try again|does not have the resources"
    r"|try a different machine|no (machines|capacity|hosts|gpus|instances) available|insufficient capacity"
    r"|out of stock|sold out|not enough free gpus|zero gpus?\b",
    re.IGNORECASE,
)
_NO_MONEY = re.compile(r"insufficient (balance|funds|credit)|balance is too low|spend(ing)? limit", re.IGNORECASE)
_PASSING = re.compile(r"something went wrong|please try again later|internal server error", re.IGNORECASE)


class NotInThisStatus(CloudboothError):
    """The pod's status forbids what was asked for; it may be there already."""


class Effect(Enum):
    """What the request does if it does arrive, and therefore what a lost answer means."""

    NONE_OR_REPEATABLE = "looks, or may be sent again"
    RENTS = "rents a machine"


@dataclass(frozen=True)
class Refusal:
    """An answer of 300 and above, or an error inside a GraphQL answer of 200."""

    status: int
    text: str
    """`detail` and `errors` of a problem document, else the beginning of the body."""
    retry_after_s: float | None = None
    is_structured: bool = True
    """The body is a JSON object, as the service's own are. A 404 that is not may come from a proxy or a mistyped
    base URL, and proves no absence."""


def error_of(refusal: Refusal, what: str, effect: Effect, machine: str | None = None) -> CloudboothError:
    """The error to raise for `what` (as in "listing pods"); `machine` is the pod that it was about."""
    status, said = refusal.status, f"RunPod, {what}: {refusal.text or 'no reason given'} ({refusal.status})"
    match status:
        case 401:
            return AuthRejected(
                f"RunPod does not accept the key: {refusal.text or 'unauthorized'}",
                f"make a key at {KEYS_PAGE} and `export RUNPOD_API_KEY=...`",
            )
        case 402:
            return QuotaExceeded(said, f"add credit at {BILLING_PAGE}")
        case 404 | 410 if machine is not None and refusal.is_structured:
            return MachineGone(f"RunPod has no pod {machine}")
        case 410:
            return CloudboothError(said, f"RunPod has retired this part of its API; {upgrading()}")
        case 409 if machine is not None and not _NO_CAPACITY.search(refusal.text):
            return NotInThisStatus(said)
        case 429:
            return Transient("RunPod limits the rate of requests", retry_after_s=refusal.retry_after_s)
    if status not in (404, 405, 413, 422) and _NO_CAPACITY.search(refusal.text):
        hint = "allow any GPU with `--set compute.gpu=[]`, or try another provider"
        return NoCapacity(f"RunPod has none left: {refusal.text}", hint)
    if _NO_MONEY.search(refusal.text):
        return QuotaExceeded(said, f"add credit at {BILLING_PAGE}")
    if status == 403:
        if "1010" in refusal.text:  # Cloudflare's word for a client that it dislikes
            return CloudboothError(said, "a proxy may have changed the User-Agent: look at HTTPS_PROXY")
        return AuthRejected(said, f"give the key the right to read and write pods, or make another at {KEYS_PAGE}")
    if status in (408, 425) or status >= 500 or _PASSING.search(refusal.text):
        if effect is Effect.RENTS:
            return Indeterminate(said)
        return Transient(said, retry_after_s=refusal.retry_after_s)
    return CloudboothError(said)


def reason_of(body: str) -> tuple[str, bool]:
    """(what a refusal says, whether it is a JSON object): a problem document, an older JSON shape, or plain text."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return " ".join(body.split()), False
    if not isinstance(parsed, dict):
        return " ".join(body.split()), False
    said = next((str(parsed[key]) for key in ("detail", "message", "error", "title") if parsed.get(key)), "")
    errors = parsed.get("errors")
    return ": ".join([said, *(str(error) for error in errors)] if isinstance(errors, list) else [said]), True


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds from `Retry-After` (a number or a date), else from the window of `RateLimit` that is used up."""
    stated = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", stated):
        return float(stated)
    if stated:
        try:
            until = parsedate_to_datetime(stated)
        except ValueError:
            return None
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())
    used_up = [float(window) for window in re.findall(r"\br=0;t=(\d+)", headers.get("ratelimit", ""))]
    return max(used_up, default=None)
