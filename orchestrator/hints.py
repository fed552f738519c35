"""Hints as they can be pasted: with the name of the run that they are about."""

from __future__ import annotations

import re

_UNNAMED = re.compile(r"(`cloudbooth [a-z]+) RUN(?=[ `])")
"""A command in backticks that takes a run: what a host writes, which does not know the name on this laptop."""


def hint_for(run: str, hint: str) -> str:
    """The hint with `RUN` filled in where it stands as a command's argument, and nowhere else (a path may hold it)."""
    return _UNNAMED.sub(lambda found: f"{found[1]} {run}", hint)
