"""All that is wrong with a spec at once, also what a schema asks only of a section whose keys are right.

A rule between keys (`provider = "ssh"` needs a host) is asked by pydantic once every key by itself is right, so a typo
hides it until the typo is mended. So a spec that is refused is asked again without the keys that are wrong, until no
new problem comes; a rule about such a key is left for later, for nobody knows what its value should have been.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.spec_errors import Problem, Schema, key_of, problems_of, problems_with_keys

_STAND_IN = "stand-in"
"""For required text that is missing: a valid name, folder, prompt and host."""
_SECTION_STAND_INS = {"subject": {"instance_prompt": _STAND_IN}, "data": {"instance": _STAND_IN}}
"""For required sections, after a rule of theirs has been told."""
_MOST_ROUNDS = 8
"""Levels of sections are three; a rule each may break in a round of its own."""
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")


def every_problem(
    model: type[BaseModel], raw: dict[str, Any], first: ValidationError, schema: Schema, unsure: Iterable[str] = ()
) -> list[Problem]:
    """Of `raw`, which `model` has refused with `first`. `unsure` are keys that are known to be wrong in another way.

    Does not change `raw`.
    """
    sound = copy.deepcopy(raw)
    wrong = [_words(key) for key in unsure]
    found = problems_of(first, schema)
    error = first
    for _ in range(_MOST_ROUNDS):
        details = error.errors(include_url=False)
        if any(not detail["loc"] for detail in details):  # rules of the whole spec: nothing is asked after them
            break
        wrong += [_words(key_of(detail["loc"])) for detail in details if detail["type"] not in _UNKNOWN_KEY]
        for detail in details:
            _mend(sound, detail["loc"], is_missing=detail["type"] == "missing")
        try:
            model.model_validate_json(json.dumps(sound, default=str), strict=True)
        except ValidationError as again:
            error = again
        else:
            break
        found += [problem for detail in error.errors(include_url=False) for problem in _new(detail, schema, wrong)]
    return list(dict.fromkeys(found))


def _new(detail: ErrorDetails, schema: Schema, wrong: Sequence[list[str]]) -> list[Problem]:
    """The rules in it that none of the wrong keys can have broken."""
    if detail["type"] != "value_error":
        return []
    section = (key_of(detail["loc"]),)
    return [
        problem
        for problem, about in problems_with_keys(detail, schema)
        if not any(_overlap(_words(key), bad) for key in about or section for bad in wrong)
    ]


def _overlap(one: list[str], other: list[str]) -> bool:
    """Whether one key is the other, or a section around it."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _words(key: str) -> list[str]:
    return re.findall(r"[^.\[\]]+", key)


def _mend(raw: dict[str, Any], where: tuple[int | str, ...], *, is_missing: bool) -> None:
    """Takes the key out, or puts something where a text is missing. Of a list nothing is taken but the whole, so that
    the numbers in later problems are those of the user.
    """
    if isinstance(where[-1], int):
        where = where[:-1]
    here: Any = raw
    for part, after in pairwise(where):
        inner = here.get(part) if isinstance(here, dict) else here[part]
        reached = inner[after] if isinstance(inner, list) and isinstance(after, int) and after < len(inner) else inner
        if not isinstance(reached, dict):
            where = (*where[: where.index(part)], part)
            break
        here = inner
    if not isinstance(here, dict):
        return
    if is_missing:
        here[where[-1]] = copy.deepcopy(_SECTION_STAND_INS.get(str(where[-1]), _STAND_IN))  # a later round mends in it
    else:
        here.pop(where[-1], None)
