"""Speeds that earlier runs of this installation have shown, from their plans in the ledger and mirrored events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from orchestrator.families import family_of
from orchestrator.home import RunHome
from orchestrator.ledger import RunRecord
from orchestrator.plan_json import planned_pipeline
from orchestrator.spec import RunSpec
from remote_trainer import wire

_TAIL_BYTES = 65_536
_LEAST_STEPS = 5
"""Fewer say more about warming up than about speed."""


def measured_speeds(
    spec: RunSpec, runs: Iterable[RunRecord], home_of: Callable[[str], RunHome], pipeline: str = ""
) -> dict[str, float]:
    """Pictures a second by GPU, or by the label of a machine that stands, in runs of the same kind as `spec`.

    The same kind: family, method, resolution and batch size. Newer runs win. Reads the last 64 KiB of one event log a
    run; what cannot be read counts for nothing. `pipeline` is the diffusers class of the base, where it is known.
    """
    speeds = {}
    for run in sorted(runs, key=lambda run: run.created_at):
        try:
            plan = json.loads(run.plan_json)
            where = plan["offer"]["gpu"] or plan["machine"]["label"]
            theirs = _kind(plan["base_for_job"], planned_pipeline(run.plan_json), plan["train"])
            same = theirs == _kind(spec.model.base, pipeline, vars(spec.train))
        except (ValueError, KeyError, TypeError):
            continue  # written by another version
        logs = home_of(run.name).event_logs()
        seen = _speeds_in(logs[-1]) if same and logs else []
        if len(seen) >= _LEAST_STEPS:
            speeds[where] = median(seen)
    return speeds


def _kind(base: str, pipeline: str, train: Mapping[str, Any]) -> tuple[Any, ...]:
    return family_of(base, pipeline).name, train["method"], train["resolution"], train["batch_size"]


def _speeds_in(log: Path) -> list[float]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    speeds = []
    for line in lines:
        try:
            event = wire.decode_event(line).event
        except wire.WireError:
            continue  # the first line of the tail is rarely whole
        if isinstance(event, wire.StepDone) and event.images_per_s:
            speeds.append(event.images_per_s)
    return speeds
