"""What an answer of Replicate that is no success means. Pure.

Its problem documents often have no title, and some answers come from a proxy before it, as HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from providers.errors import (
    AuthRejected,
    CloudboothError,
    Indeterminate,
    MachineGone,
    NoCapacity,
    QuotaExceeded,
    Transient,
)

TOKENS_PAGE = "https://replicate.com/account/api-tokens"
BILLING_PAGE = "https://replicate.com/account/billing"
TEXT_CHARACTERS = 400
_RESETS = re.compile(r"(?:resets in|available in) ~?(\d+(?:\.\d+)?) ?s")


def error_of(
    status: int, body: str, headers: Mapping[str, str], what: str, *, submits: bool = False, job: str | None = None
) -> CloudboothError:
    """The error to raise for `what` (as in "reading a training").

    `submits`: the request may have started a job, so that only an answer of the service itself says it has not. `job`
    is the one that was asked for.
    """
    reason, is_structured = reason_of(body)
    said = f"Replicate, {what}: {reason or 'no reason given'} ({status})"
    match status:
        case 401:
            return AuthRejected(
                f"Replicate does not accept the token: {reason or 'unauthorized'}",
                f"make one at {TOKENS_PAGE} and `export REPLICATE_API_TOKEN=...`",
            )
        case 402:
            return QuotaExceeded(said, f"add credit at {BILLING_PAGE}")
        case 403:
            return AuthRejected(said, f"look at what the token may do: {TOKENS_PAGE}")
        case 404 if job is not None and is_structured:
            return MachineGone(f"Replicate has no {what.split()[-1]} {job}")
        case 429:
            after_s = retry_after_s(headers, reason)
            if submits:
                return NoCapacity(f"Replicate limits the rate of requests: {reason}")
            return Transient("Replicate limits the rate of requests", retry_after_s=after_s)
    if status >= 500 or status in (408, 425):
        return Indeterminate(said) if submits else Transient(said, retry_after_s=retry_after_s(headers, reason))
    return CloudboothError(said)


def reason_of(body: str) -> tuple[str, bool]:
    """(what a refusal says, whether it is a JSON object)."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return " ".join(body.split())[:TEXT_CHARACTERS], False
    if not isinstance(parsed, dict):
        return " ".join(body.split())[:TEXT_CHARACTERS], False
    parts = [str(parsed[key]).strip() for key in ("title", "detail") if parsed.get(key)]
    parts += [f"{field}" for field in parsed.get("invalid_fields") or ()]
    return ": ".join(parts)[:TEXT_CHARACTERS], True


def retry_after_s(headers: Mapping[str, str], reason: str) -> float | None:
    stated = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", stated):
        return float(stated)
    told = _RESETS.search(reason)
    return float(told[1]) if told else None
