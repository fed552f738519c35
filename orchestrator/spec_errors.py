"""What is wrong with a spec, in words: the key's path, the broken rule, the nearest valid key.

Turns pydantic's error list into the sentences that a person who has never heard of pydantic can act on.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.errors import UsageError


@dataclass(frozen=True)
class Problem:
    key: str
    """`train.steps`; empty for a rule between sections."""
    what: str
    fix: str = ""
    """Flags that put it right, to be pasted: `--host me@gpu-box`."""
    meant: str = ""
    """The valid key most like an unknown one."""


class RuleBroken(ValueError):
    """Raised by validators that know how to put it right; pydantic hands it on as it is."""

    def __init__(self, what: str, fix: str = "", key: str = "", about: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.fix = fix
        self.key = key
        """Of a rule between the keys of a section: the one to be told with it."""
        self.about = about
        """Every key whose value decides whether it is broken; empty: any of the section's."""


class RulesBroken(ValueError):
    """Several at once."""

    def __init__(self, rules: Sequence[RuleBroken]) -> None:
        super().__init__("; ".join(map(str, rules)))
        self.rules = tuple(rules)


@dataclass(frozen=True)
class Schema:
    """The key paths a spec may have: `name`, `train`, `train.steps`, …"""

    keys: tuple[str, ...]

    @classmethod
    def of(cls, model: type[BaseModel]) -> Schema:
        return cls(tuple(_keys(model, "")))

    def nearest(self, key: str) -> str | None:
        """The valid key most like a wrong one: of the same section, else the same word in another section."""
        section, _, leaf = key.rpartition(".")
        siblings = {k.rpartition(".")[2]: k for k in self.keys if k.rpartition(".")[0] == section}
        if close := difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.6):
            return siblings[close[0]]
        by_leaf: dict[str, str] = {}
        for known in sorted(self.keys, key=lambda key: key.count(".")):
            by_leaf.setdefault(known.rpartition(".")[2], known)
        if close := difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.8):
            return by_leaf[close[0]]
        close = difflib.get_close_matches(key, self.keys, n=1, cutoff=0.75)
        return close[0] if close else None


def _keys(model: type, prefix: str) -> list[str]:
    if dataclasses.is_dataclass(model):
        return [prefix + field.name for field in dataclasses.fields(model)]
    found = []
    for name, field in model.model_fields.items() if issubclass(model, BaseModel) else ():
        found.append(prefix + name)
        for kind in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(kind, type) and (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)):
                found += _keys(kind, f"{prefix}{name}.")
    return found


def problems_of(error: ValidationError, schema: Schema) -> list[Problem]:
    return [problem for detail in error.errors(include_url=False) for problem, _ in problems_with_keys(detail, schema)]


def problems_with_keys(detail: ErrorDetails, schema: Schema) -> list[tuple[Problem, tuple[str, ...]]]:
    """Each with the keys that it is `about`, of a rule that says them."""
    key, error = key_of(detail["loc"]), detail.get("ctx", {}).get("error")
    rules = error.rules if isinstance(error, RulesBroken) else (error,) if isinstance(error, RuleBroken) else ()
    if rules:
        return [(Problem(rule.key or key, str(rule), rule.fix), rule.about) for rule in rules]
    return [(_problem(detail, schema), ())]


def key_of(where: tuple[int | str, ...]) -> str:
    """`data.sets[1].id`."""
    return re.sub(r"\.\[", "[", ".".join(f"[{p}]" if isinstance(p, int) else str(p) for p in where))


def usage_error(source: str, problems: Sequence[Problem], hint: str) -> UsageError:
    """All problems in one error. `source` begins the sentence: a file name, `the command line`.

    `hint` is for problems that do not all say how to put them right.
    """
    unique = list(dict.fromkeys(problems))
    count = "a problem" if len(unique) == 1 else f"{len(unique)} problems"
    lines = [f"{source} has {count}"]
    lines += [f"  {problem.key}: {problem.what}" if problem.key else f"  {problem.what}" for problem in unique]
    fixes = dict.fromkeys(f"`{problem.fix}`" for problem in unique)
    return UsageError("\n".join(lines), " and ".join(fixes) if all(problem.fix for problem in unique) else hint)


_TYPES = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text in quotes",
    "path_type": "must be a path in quotes",
    "tuple_type": 'must be a list in brackets: ["…", "…"]',
    "list_type": 'must be a list in brackets: ["…", "…"]',
    "model_type": "must be a section with keys of its own",
    "model_attributes_type": "must be a section with keys of its own",
    "dataclass_type": "must be a section with keys of its own",
}


def _problem(detail: ErrorDetails, schema: Schema) -> Problem:
    key = key_of(detail["loc"])
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    match kind:
        case "extra_forbidden" | "unexpected_keyword_argument":
            nearest = schema.nearest(key)
            return Problem(key, "unknown key" + (f", did you mean {nearest}" if nearest else ""), meant=nearest or "")
        case "missing":
            return Problem(key, "missing")
        case "greater_than_equal":
            return Problem(key, f"must be at least {context['ge']:g}, is {_shown(given)}")
        case "greater_than":
            return Problem(key, f"must be greater than {context['gt']:g}, is {_shown(given)}")
        case "less_than_equal":
            return Problem(key, f"must be at most {context['le']:g}, is {_shown(given)}")
        case "multiple_of":
            return Problem(key, f"must be a multiple of {context['multiple_of']}, is {_shown(given)}")
        case "literal_error":
            known = re.findall(r"'([^']*)'", str(context["expected"]))
            close = difflib.get_close_matches(str(given), known, n=1)
            hint = f", did you mean {close[0]}" if close else ""
            return Problem(key, f"must be {one_of(known)}, is {_shown(given)}{hint}")
        case "string_pattern_mismatch":
            blank = isinstance(given, str) and not given.strip()
            return Problem(key, "must not be empty" if blank else f"{_shown(given)} is not valid here")
        case "value_error":
            return Problem(key, str(context["error"]))
    if kind in _TYPES:
        return Problem(key, f"{_TYPES[kind]}, is {_shown(given)}")
    return Problem(key, f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, is {_shown(given)}")


def one_of(words: Sequence[str]) -> str:
    """`a, b or c`."""
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
