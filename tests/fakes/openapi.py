"""Holds requests and answers against a published OpenAPI 3.1 file: the service's own word, not the fake's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

CONTRACTS = Path(__file__).parents[3] / "shared" / "contracts"
"""Beside the checkout. The files are others' and no part of this repository; without them nothing is checked."""

_ROOT = "urn:contract"


@dataclass(frozen=True)
class Operation:
    path: str
    """With its `{placeholders}`."""
    spec: Mapping[str, Any]
    parameters: tuple[Mapping[str, Any], ...]


class OpenApi:
    """`later` names query parameters that the service has taken since the file was published."""

    def __init__(self, document: Mapping[str, Any], later: frozenset[str] = frozenset()) -> None:
        self._document = document
        self._later = later
        resource = Resource(contents=document, specification=DRAFT202012)
        self._registry: Registry[Any] = Registry().with_resource(_ROOT, resource)

    @staticmethod
    @cache
    def read(name: str, later: frozenset[str] = frozenset()) -> OpenApi | None:
        """None where the file is absent."""
        path = CONTRACTS / name
        return OpenApi(json.loads(path.read_text("utf-8")), later) if path.exists() else None

    def operation(self, method: str, path: str) -> Operation | None:
        for template, item in self._document["paths"].items():
            if re.fullmatch(re.sub(r"\\\{[^}]+\\\}", "[^/]+", re.escape(template)), path) and method.lower() in item:
                spec = item[method.lower()]
                listed = [*item.get("parameters", []), *spec.get("parameters", [])]
                return Operation(template, spec, tuple(self._resolved(parameter) for parameter in listed))
        return None

    def request_problems(self, method: str, path: str, query: Mapping[str, str], body: object) -> list[str]:
        """What is wrong with a request; `body` is None where there is none."""
        operation = self.operation(method, path)
        if operation is None:
            return [f"{method} {path}: no such operation"]
        known = {parameter["name"]: parameter for parameter in operation.parameters if parameter["in"] == "query"}
        problems = [f"query {name}: unknown" for name in query if name not in known and name not in self._later]
        for name, parameter in known.items():
            if name in query:
                schema = self._resolved(parameter["schema"])
                problems += [f"query {name}: {p}" for p in self._problems(schema, _from_text(query[name], schema))]
            elif parameter.get("required"):
                problems.append(f"query {name}: required")
        if body is not None and "requestBody" not in operation.spec:
            return [*problems, "body: none expected"]
        if "requestBody" in operation.spec:
            schema = operation.spec["requestBody"]["content"]["application/json"]["schema"]
            problems += [f"body: {problem}" for problem in self._problems(schema, body)]
        return problems

    def answer_problems(self, method: str, path: str, status: int, kind: str, body: object) -> list[str]:
        """What is wrong with an answer; `body` is parsed where it is JSON, a text otherwise, None where empty."""
        operation = self.operation(method, path)
        if operation is None:
            return []
        declared = operation.spec["responses"]
        response = self._resolved(declared.get(str(status)) or declared.get("default") or {})
        if not response:
            return [f"status {status}: not declared"]
        content = response.get("content")
        if content is None:
            return [] if body is None else ["body: none declared"]
        if kind not in content:
            return [f"content type {kind}: not declared"]
        return [f"body: {problem}" for problem in self._problems(content[kind]["schema"], body)]

    def _problems(self, schema: Mapping[str, Any], instance: object) -> list[str]:
        validator = Draft202012Validator(_absolute(schema), registry=self._registry)
        return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(instance)]

    def _resolved(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" not in item:
            return item
        found: Any = self._document
        for part in item["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return self._resolved(found)


def _absolute(schema: Any) -> Any:
    """With references that lead into the document wherever the schema stands."""
    if isinstance(schema, Mapping):
        return {
            key: f"{_ROOT}{value}" if key == "$ref" and str(value).startswith("#") else _absolute(value)
            for key, value in schema.items()
        }
    return [_absolute(part) for part in schema] if isinstance(schema, list) else schema


def _from_text(text: str, schema: Mapping[str, Any]) -> object:
    match schema.get("type"):
        case "integer" if re.fullmatch(r"-?\d+", text):
            return int(text)
        case "boolean" if text in ("true", "false"):
            return text == "true"
        case "array":
            return text.split(",")
    return text
