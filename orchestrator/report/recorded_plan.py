"""What a report tells of the plan that a run was accepted with, read from its JSON in the ledger.

Plans of earlier versions lack keys and have others: what is not there, or not of the right kind, is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.ranges import Range
from orchestrator.report.contents import Setting
from remote_trainer.wire import Decision, Warned


@dataclass(frozen=True)
class RecordedPlan:
    base: str
    method: str
    instance_prompt: str
    steps: int
    settings: tuple[Setting, ...]
    decisions: tuple[Decision, ...]
    warnings: tuple[Warned, ...]
    quote_usd: Range | None
    """None where nothing is rented."""
    ceiling_usd: float | None

    @classmethod
    def of_json(cls, text: str) -> RecordedPlan:
        """Never raises: a report of half a plan is better than none."""
        try:
            plan = _object(json.loads(text))
        except ValueError:
            plan = {}
        train = _object(plan.get("train"))
        return cls(
            base=_text(plan.get("base_for_job")),
            method=_text(train.get("method")),
            instance_prompt=_text(plan.get("instance_prompt")),
            steps=int(_number(train.get("steps")) or 0),
            settings=tuple(_settings(plan, train)),
            decisions=tuple(Decision(what, why) for what, why in _pairs(plan.get("decisions"), "what", "why")),
            warnings=tuple(Warned(*pair) for pair in _pairs(plan.get("warnings"), "message", "hint")),
            quote_usd=_range(_object(_object(plan.get("rental")).get("quote")).get("cost_usd")),
            ceiling_usd=_number(plan.get("max_cost_usd")),
        )


def stated_guidance(spec_json: str) -> float | None:
    """What the spec of a run states for its pictures. Never raises, as `RecordedPlan.of_json`."""
    try:
        return _number(_object(_object(json.loads(spec_json)).get("train")).get("validation_guidance_scale"))
    except ValueError:
        return None


def _settings(plan: dict[str, Any], train: dict[str, Any]) -> Iterator[Setting]:
    for key in ("instance_prompt", "class_prompt"):
        if _text(plan.get(key)):
            yield Setting(f"subject.{key}", _text(plan[key]))
    if _text(plan.get("base_for_job")):
        yield Setting("model.base", _text(plan["base_for_job"]))
    for key, value in train.items():
        if value is not None:
            yield Setting(f"train.{key}", _shown(value))
    if isinstance(plan.get("formats"), list):
        yield Setting("output.formats", _shown(plan["formats"]))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _pairs(value: object, first: str, second: str) -> Iterator[tuple[str, str]]:
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict) and item.get(first):
            yield _text(item[first]), _text(item.get(second))


def _range(value: object) -> Range | None:
    bounds = [_number(_object(value).get(key)) for key in ("low", "expected", "high")]
    known = [bound for bound in bounds if bound is not None]
    return Range(*known) if len(known) == 3 else None
