"""The plan of a hosted job: which photos, which trainer, which settings arrive there, for how much. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.dataset.buckets import Sizing
from orchestrator.dataset.placement import Placement, place_photos
from orchestrator.dataset.scan import Finding, Scan, Severity, require_usable
from orchestrator.errors import RunConflict, UsageError
from orchestrator.plan_json import plain
from orchestrator.ranges import Range, duration, usd
from orchestrator.spec import DEFAULT_BASE, Compute, Limits, RunSpec
from providers.jobs import JobQuote, JobWish, Value
from remote_trainer.wire import Decision, ExportFormat, TrainSpec, Warned

NOT_MADE = "a hosted job returns its LoRA alone, and the base is not here"
_MACHINE_KEYS = (
    "compute.gpu", "compute.market", "compute.min_vram_gb", "compute.max_price_per_hour", "compute.disk_gb",
    "compute.trust", "compute.allow_cpu", "compute.machine", "compute.volume", "compute.gpu_count", "compute.nodes",
    "limits.rescue_hours", "limits.keep_minutes", "limits.wait_for_laptop_minutes",
)  # fmt: skip
FEW_PHOTOS = 10
"""What the authors of the hosted trainers advise at least."""


@dataclass(frozen=True)
class JobPlan:
    name: str
    instance_prompt: str
    quote: JobQuote
    instance: tuple[Placement, ...]
    captions: int
    """Photos with a caption of their own; the others get the instance prompt."""
    formats: tuple[ExportFormat, ...]
    output_folder: Path
    cost_usd: Range
    max_cost_usd: float
    limit_s: float
    """Computing time after which the laptop cancels the job."""
    decisions: tuple[Decision, ...]
    findings: tuple[Finding, ...]
    warnings: tuple[Warned, ...]


def job_wish(spec: RunSpec) -> JobWish:
    """The spec's keys that a trainer may know. Pure."""
    usual = vars(TrainSpec())
    settings: dict[str, Value] = {}
    stated = set()
    for key, value in vars(spec.train).items():
        if value is None:
            continue
        shown: Value = ", ".join(value) if isinstance(value, tuple) else value
        settings[f"train.{key}"] = shown
        if value != usual[key]:
            stated.add(f"train.{key}")
    settings["subject.instance_prompt"] = spec.subject.instance_prompt
    settings["subject.trigger"] = trigger_word(spec.subject.instance_prompt, spec.subject.class_prompt)
    if spec.data.regularization != "none":
        settings["data.regularization"] = spec.data.regularization
        stated.add("data.regularization")
    usual_compute, usual_limits = Compute(), Limits()
    for key in _MACHINE_KEYS:
        section, _, name = key.partition(".")
        given, default = (spec.compute, usual_compute) if section == "compute" else (spec.limits, usual_limits)
        value = getattr(given, name)
        if value != getattr(default, name):
            settings[key] = ", ".join(value) if isinstance(value, tuple) else str(value)
            stated.add(key)
    base = None if spec.model.base == DEFAULT_BASE else spec.model.base
    return JobWish(spec.name, settings, frozenset(stated), base)


def trigger_word(instance_prompt: str, class_prompt: str | None) -> str:
    """The rare word: what the prompt of the photos has and that of the class has not, else its first telling word."""
    usual = {"a", "an", "the", "of", "photo", "picture", "image", "in", "style"} | set((class_prompt or "").split())
    words = instance_prompt.split()
    return next((word for word in words if word.lower() not in usual), words[-1])


def make_job_plan(spec: RunSpec, instance: Scan, quote: JobQuote, spent_usd: float = 0.0) -> JobPlan:
    """Raises UsageError for unusable photos, for a trainer that is expected to cost more than the ceiling, and for
    formats of which none can be had.
    """
    require_usable(instance)
    if spec.data.captions == "generated":
        raise UsageError(
            f"data.captions = generated: {quote.trainer} is not our trainer, and has no captioner of ours",
            "write captions beside the photos, or leave data.captions out; some trainers write their own",
        )
    low, expected, high = (seconds * quote.usd_per_s for seconds in quote.seconds)
    ceiling = spec.limits.max_cost_usd
    if expected > ceiling - spent_usd:
        raise UsageError(
            f"{quote.trainer} is expected to cost {usd(expected)} for {quote.steps} steps, and limits.max_cost_usd "
            f"= {ceiling:g} ends it before, with nothing to show for it",
            f"--max-cost {expected * 1.5:.2f}, or fewer steps",
        )
    limit_s = limit_seconds(spec, quote, spent_usd)
    placements = place_photos(instance.photos, Sizing("side", quote.resolution, square=False))
    captions = sum(placement.photo.caption is not None for placement in placements)
    formats, format_warnings = _formats(spec)
    warnings = [Warned(text, "docs/replicate.md says how to choose another") for text in quote.warnings]
    warnings += [*format_warnings, *_warnings(spec, quote, len(placements), high, limit_s)]
    return JobPlan(
        name=spec.name,
        instance_prompt=spec.subject.instance_prompt,
        quote=quote,
        instance=placements,
        captions=captions,
        formats=formats,
        output_folder=spec.output.folder,
        cost_usd=Range(low, expected, high),
        max_cost_usd=ceiling,
        limit_s=limit_s,
        decisions=tuple(_decisions(spec, quote)),
        findings=tuple(finding for finding in instance.findings if finding.severity is not Severity.ERROR),
        warnings=tuple(warnings),
    )


def limit_seconds(spec: RunSpec, quote: JobQuote, spent_usd: float) -> float:
    """How long the job may compute: by money, and by `limits.max_hours`."""
    by_money = max(0.0, spec.limits.max_cost_usd - spent_usd) / quote.usd_per_s
    return by_money if spec.limits.max_hours is None else min(by_money, spec.limits.max_hours * 3600)


def job_plan_to_data(plan: JobPlan) -> dict[str, Any]:
    """JSON data; what a report reads of any plan stands under the keys that other plans have."""
    data: dict[str, Any] = plain(plan)
    data["quote"] = TypeAdapter(JobQuote).dump_python(plan.quote, mode="json")
    return {
        **data,
        "train": {"method": "lora", "steps": plan.quote.steps},
        "base_for_job": plan.quote.weights.base,
        "rental": {"quote": {"cost_usd": plain(plan.cost_usd)}},
    }


def recorded_quote(plan_json: str) -> JobQuote:
    """Raises RunConflict for a plan of another version."""
    try:
        return TypeAdapter(JobQuote).validate_python(json.loads(plan_json)["quote"])
    except (ValueError, KeyError, TypeError, ValidationError):
        raise RunConflict("the recorded plan of this job cannot be read", "launch it again") from None


def _formats(spec: RunSpec) -> tuple[tuple[ExportFormat, ...], list[Warned]]:
    wanted = spec.output.formats or ("lora",)
    left_out = [format_ for format_ in wanted if format_ != "lora"]
    if "lora" not in wanted:
        raise UsageError(f"output.formats = {', '.join(wanted)}: {NOT_MADE}", "--set output.formats='[\"lora\"]'")
    return ("lora",), [
        Warned(f"output.formats: {format_} is not made: {NOT_MADE}", "leave it out") for format_ in left_out
    ]


def _decisions(spec: RunSpec, quote: JobQuote) -> list[Decision]:
    decisions = []
    if spec.model.base == DEFAULT_BASE:
        decisions.append(
            Decision(f"train {quote.weights.base}", f"the base of {quote.trainer}; no other was asked for")
        )
    if not quote.destination_exists:
        decisions.append(
            Decision(f"make the private model {quote.destination}", "the service puts the result there as a version")
        )
    return decisions


def _warnings(spec: RunSpec, quote: JobQuote, photos: int, high_usd: float, limit_s: float) -> list[Warned]:
    warnings = []
    if photos < FEW_PHOTOS:
        warnings.append(Warned(f"{photos} photos: hosted trainers advise {FEW_PHOTOS} or more", "add some, or go on"))
    if high_usd > spec.limits.max_cost_usd:
        warnings.append(
            Warned(
                f"it may cost {usd(high_usd)}, and is canceled at {usd(limit_s * quote.usd_per_s)} without a result",
                f"--max-cost {high_usd:.2f}",
            )
        )
    warnings.append(
        Warned(
            f"nobody but this laptop cancels the job: while it is away, the job ends by its own {quote.steps} steps "
            f"(at most about {usd(high_usd)}, {duration(quote.seconds[2])})",
            "`--detach` leaves a process that watches it",
        )
    )
    return warnings
