"""Figures about a run's pictures that a program of the user's own has put beside them.

This program has no judge: what a good picture of the subject is, depends on the subject. Whoever has one, such as
examples/toybox/score.py, writes `validation/scores.json` into the run's folder:

    {"judge": "who", "scores": [{"name": "what", "step": 300, "value": 0.96, "low": 0.8, "high": 0.99, "n": 24}, …]}
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from orchestrator.report.contents import Judgement, Score

FILE_NAME = "scores.json"


def read_judgement(folder: Path) -> Judgement | None:
    """folder: of the validation pictures. None for a file that is missing, empty or says something else."""
    try:
        content = json.loads((folder / FILE_NAME).read_bytes())
        scores = tuple(_score(each) for each in content["scores"])
        return Judgement(str(content["judge"]), scores) if scores else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _score(content: Any) -> Score:
    value, low, high = (float(content[key]) for key in ("value", "low", "high"))
    if not all(math.isfinite(each) for each in (value, low, high)):
        raise ValueError("a score that is no number")
    return Score(str(content["name"]), int(content["step"]), value, low, high, int(content["n"]))
