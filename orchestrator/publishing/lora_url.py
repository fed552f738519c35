"""A LoRA by its address: Replicate's official models take one, and nothing has to be pushed. Pure."""

from __future__ import annotations

import json
import shlex

from orchestrator.errors import UsageError
from orchestrator.finished_model import FinishedModel

OFFICIAL = {
    "black-forest-labs/flux.1-dev": "black-forest-labs/flux-dev-lora",
    "black-forest-labs/flux.1-schnell": "black-forest-labs/flux-schnell-lora",
}
"""Base → Replicate's model that takes `lora_weights`."""


def official_model(model: FinishedModel) -> str:
    """Raises UsageError for a base that none of them has, and for what is no LoRA."""
    runner = OFFICIAL.get(model.base.partition("@")[0].lower())
    if runner is None or model.lora is None:
        raise UsageError(
            f"Replicate's official LoRA models run LoRAs of FLUX.1, and run `{model.name}` has "
            f"{'one' if model.lora is not None else 'a whole model'} of {model.base}",
            f"`cloudbooth publish {model.name} replicate:OWNER/NAME` writes a model of your own",
        )
    return runner


def prediction_command(runner: str, lora_weights: str, model: FinishedModel) -> str:
    """One line of curl; the token stays in the environment."""
    body = json.dumps({"input": {"prompt": model.prompt, "lora_weights": lora_weights, "output_format": "png"}})
    return (
        f"curl -s -X POST https://api.replicate.com/v1/models/{runner}/predictions "
        '-H "Authorization: Bearer $REPLICATE_API_TOKEN" -H "Content-Type: application/json" -H "Prefer: wait" '
        f"-d {shlex.quote(body)}"
    )
