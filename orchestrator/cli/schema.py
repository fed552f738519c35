"""`schema`: what the lines of `--json` look like, as JSON Schema, made from the types that print them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from orchestrator.cli.options import json_option

_TEXT, _NUMBER, _WHOLE = {"type": "string"}, {"type": "number"}, {"type": "integer"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_SIMPLE: Mapping[str, tuple[str, dict[str, Any]]] = {
    "state": ("state", {"state": _TEXT, "why": _TEXT}),
    "event": ("event", {"event": {"type": "object", "required": ["v", "seq", "t", "type"]}}),
    "transfer": ("transfer", {"what": _TEXT, "done_bytes": _WHOLE, "total_bytes": _WHOLE}),
    "arrived": ("arrived", {"what": _TEXT, "path": _TEXT}),
    "note": ("note", {"text": _TEXT}),
    "error": ("error", {"message": _TEXT, "hint": _TEXT, "exit_code": _WHOLE}),
    "photo": (
        "photo",
        {
            "file": _TEXT,
            "verdict": {"enum": ["good", "doubtful", "bad"]},
            "reasons": {
                "type": "array",
                "items": {"type": "object", "required": ["code", "verdict", "message", "hint"]},
            },
            "width": {"type": ["integer", "null"]},
            "height": {"type": ["integer", "null"]},
            "bucket": {"type": ["array", "null"], "items": _WHOLE},
            "cropped_share": {"type": ["number", "null"]},
            "caption": _TEXT_OR_NULL,
            "framing": _TEXT_OR_NULL,
            "faces": {"type": ["integer", "null"]},
        },
    ),
}
"""Name → (`type`, properties), of lines that no dataclass stands for."""

_OF_CLASSES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "plan": ("plan", ("orchestrator.plan:Plan",)),
    "listing": ("listing", ("orchestrator.market:Listing",)),
    "refusal": ("refusal", ("orchestrator.market:Refusal",)),
    "run": ("run", ("orchestrator.cli.render.run_list:RunView",)),
    "status": (
        "summary",
        ("orchestrator.cli.render.run_list:RunView", "orchestrator.cli.render.runs:StatusView"),
    ),
    "report": ("summary", ("orchestrator.report.contents:Report",)),
    "finding": ("finding", ("orchestrator.doctor:Finding",)),
    "end": ("summary", ("orchestrator.cli.render.summary:Summary",)),
}
"""Name → (`type`, the dataclasses whose fields are its keys)."""

NAMES = tuple(sorted({*_SIMPLE, *_OF_CLASSES}))


@click.command(epilog="Example: cloudbooth schema run")
@click.argument("line", type=click.Choice(NAMES), required=False)
@json_option
def schema(line: str | None, as_json: bool) -> int:
    """Print the JSON Schema of a kind of line that --json prints; without LINE, of all of them by name.

    `end` is the last line of launch, attach, resume, stop and down; docs/cli.md says which verb prints what.
    """
    chosen = schema_of(line) if line is not None else {name: schema_of(name) for name in NAMES}
    click.echo(json.dumps(chosen, indent=None if as_json else 2))
    return 0


def schema_of(name: str) -> dict[str, Any]:
    """Draft 2020-12. Keys that a later version adds are no violation."""
    if name in _SIMPLE:
        kind, properties = _SIMPLE[name]
        made: dict[str, Any] = {"properties": properties, "required": list(properties)}
    else:
        kind, classes = _OF_CLASSES[name]
        made = _merged([_of_class(path) for path in classes])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": name,
        "type": "object",
        **made,
        "properties": {"type": {"const": kind}, **made["properties"]},
        "required": ["type", *made["required"]],
    }


def _of_class(path: str) -> dict[str, Any]:
    from importlib import import_module

    from pydantic import TypeAdapter

    module, _, name = path.partition(":")
    adapter: TypeAdapter[Any] = TypeAdapter(getattr(import_module(module), name))
    made = adapter.json_schema(mode="serialization")
    made["required"] = list(made["properties"])  # what has a default is printed all the same
    return made


def _merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {"$defs": {}, "properties": {}, "required": []}
    for part in parts:
        merged["$defs"] |= part.get("$defs", {})
        merged["properties"] |= part["properties"]
        merged["required"] += part["required"]
    return merged
