"""The text of a first spec: TOML with a comment at every line that a person may want to change. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from orchestrator.ranges import Range, duration_range, usd_range
from orchestrator.recipes import Recipe


@dataclass(frozen=True)
class Place:
    """Where it is trained: a provider, and for `ssh` the host."""

    provider: str
    host: str | None = None

    @property
    def rents(self) -> bool:
        return self.provider not in ("local", "ssh")


@dataclass(frozen=True)
class Estimate:
    gpu: str
    price_per_hour_usd: float
    duration_s: Range
    cost_usd: Range

    @property
    def words(self) -> str:
        rate = f"a {self.gpu} at ${self.price_per_hour_usd:.2f} an hour"
        return f"{duration_range(self.duration_s)} and {usd_range(self.cost_usd)} on {rate}, an estimate"


def first_spec(
    name: str,
    photos: str,
    photos_told: str,
    recipe: Recipe,
    place: Place,
    resolution: int,
    budget_usd: float,
    estimate: Estimate | None,
) -> str:
    """`photos`: the folder as it stands in the spec. `photos_told`: what a look at them said, one line."""
    quoted = json.dumps  # TOML's basic strings and arrays of them are JSON's
    command = f"cloudbooth plan {name}.toml"
    lines = [
        f"# {name}: what `cloudbooth init` wrote. Every key and its default: docs/spec.md.",
        f"# `{command}` shows all that would happen and starts nothing;",
        f"# `cloudbooth launch {name}.toml` trains.",
        "",
        f"name = {quoted(name)}",
        "",
        "[subject]",
        f"instance_prompt = {_text(recipe.instance_prompt)}   # what you write later to see it; the rare word is yours",
        *([f"class_prompt = {_text(recipe.class_prompt)}   # others of its kind"] if recipe.class_prompt else []),
        "",
        "[data]",
        f"instance = {_text(photos)}   # {photos_told}",
        '# captions = "generated"   # the machine describes each photo first: for styles, and for Flux and SD 3',
        f"regularization = {quoted(recipe.regularization)}   # {recipe.why_regularization}",
        "",
        "[train]",
        'method = "lora"   # a small file beside the base; "full" trains all weights, and needs 24 GB of GPU memory',
        f"steps = {recipe.steps}   # {recipe.why_steps}; the pictures on the way show when it is enough",
        f"resolution = {resolution}   # pixels; what the base was made for",
        f"lora_rank = {recipe.lora_rank}   # {recipe.why_rank}",
        "validate_every = 200   # steps between looks at these:",
        "validation_prompts = [",
        *(f"  {_text(prompt)}," for prompt in recipe.validation_prompts),
        "]",
        "",
        "[compute]",
        *_compute(place),
        "",
        "[limits]",
        *_limits(place, budget_usd, estimate),
        "",
        "[output]",
        'folder = "models"',
        'formats = ["lora", "kohya-lora"]   # kohya-lora: for AUTOMATIC1111 and ComfyUI',
    ]
    return "\n".join(lines) + "\n"


def _compute(place: Place) -> list[str]:
    if place.provider == "local":
        return ['provider = "local"   # this machine; without a GPU it takes days']
    if place.provider == "ssh":
        return ['provider = "ssh"', "", "[compute.ssh]", f"host = {_text(place.host or '')}   # alias or user@host"]
    return [
        f"provider = {_text(place.provider)}   # rented for this run, and given back at its end",
        'market = "on-demand"   # "spot" is cheaper and may be taken away: the run then goes on elsewhere',
        'trust = "any"   # "secure": data centers only, for photos that no stranger should see',
    ]


def _limits(place: Place, budget_usd: float, estimate: Estimate | None) -> list[str]:
    if not place.rents:
        return ["max_hours = 48.0   # then it ends with a checkpoint"]
    told = [] if estimate is None else [f"# expected: {estimate.words}"]
    return [*told, f"max_cost_usd = {budget_usd:.2f}   # all machines together never cost more"]


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
