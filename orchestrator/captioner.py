"""What can be known about a captioner free of charge: that the hub has it, open to all, and that it can be asked."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from contextlib import suppress

from orchestrator.base_model import DEFAULT_ENDPOINT
from orchestrator.errors import UsageError
from remote_trainer.wire import Warned

KINDS = ("blip", "florence2")
"""As in `remote_trainer.captioner.ASKED`."""


def look_up_captioner(captioner: str, *, endpoint: str | None = None, timeout_s: float = 10.0) -> Warned | None:
    """Asks the hub (by default that of HF_ENDPOINT) once, without a token: none is lent for it. A folder on the machine
    is not looked up. Answers with a warning when the hub says nothing of use.

    Raises UsageError for one that the hub does not have or does not show, and for another kind of model.
    """
    repo, _, commit = captioner.partition("@")
    if not commit:
        return None
    hub = (endpoint or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    leave_out = "leave data.captioner out, or write captions beside the photos"
    try:
        with urllib.request.urlopen(f"{hub}/api/models/{repo}/revision/{commit}", timeout=timeout_s) as answer:
            info = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (401, 403, 404):
                raise UsageError(f"{hub} shows no captioner {captioner}", leave_out) from None
            reason = f"HTTP {error.code}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
    else:
        if isinstance(info, dict) and info.get("gated"):
            raise UsageError(f"the captioner {repo} is gated, and no token is lent for it", leave_out)
        with suppress(KeyError, TypeError):
            kind = str(info["config"]["model_type"])
            if kind not in KINDS:
                message = f"the captioner {repo} is of the kind {kind}, which cannot be asked for captions"
                raise UsageError(message, f"kinds that can: {', '.join(KINDS)}; or {leave_out}")
        return None
    message = f"the captioner could not be checked at {hub} ({reason}): whether it is there shows only on the machine"
    return Warned(message, "check the network and HF_ENDPOINT, then run the command again")
