"""A plan as JSON data: for `plan --json`, for the ledger and beside the model."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

from orchestrator.base_model import job_base
from orchestrator.plan import Plan


def plan_to_data(plan: Plan) -> dict[str, Any]:
    """Everything in the plan, plus `base_for_job`: numbers, texts, lists and objects only, keys as in `Plan`."""
    return {**plain(plan), "base_for_job": job_base(plan.base)}


def planned_pipeline(plan_json: str) -> str:
    """The diffusers class of the base in a stored plan; empty when the plan does not know, or is of another version."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(plan_json)["base"]["pipeline"])
    return ""


def planned_disk_gb(plan_json: str) -> float | None:
    """What a stored plan asks of a rented machine; None when nothing is rented, or it is of another version."""
    with suppress(ValueError, KeyError, TypeError):
        return float(json.loads(plan_json)["rental"]["disk_gb"])
    return None


def plain(value: object) -> Any:
    """Dataclasses, enums, paths and tuples as what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return value
