"""Which ways to train the experiments compare. Pure: nothing here loads or trains a model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import world
from remote_trainer.bases import shipped

_CLASS_IMAGES = 24


@dataclass(frozen=True)
class Variant:
    """One way to train. Everything that is not named is as in `robot.toml`, whose reasons stand there."""

    label: str
    settings: dict[str, object] = field(default_factory=dict)
    """Of `TrainSpec`, other than the defaults below; 0 steps: the base is measured as it is."""
    name: str = "sks robot"
    """What the captions call the subject."""
    class_images: int = _CLASS_IMAGES
    class_probability: float = 1.0
    """How often class images are drawn, against the photos; counts only where they are mixed."""
    stop_every: int = 0
    """Steps after which the process is asked to stop and started again; 0: never."""
    captions: bool = True
    """False: every photo has the same prompt, so that the place is part of the name."""
    class_places: bool = False
    """Class images of robots in each of the six places too, as many altogether, instead of "a robot" alone."""

    @property
    def steps(self) -> int:
        return int(str({**DEFAULTS, **self.settings}["steps"]))


DEFAULTS: dict[str, object] = {
    "method": "full", "steps": 100, "resolution": world.SIDE, "batch_size": 4, "learning_rate": 2e-4,
    "lr_schedule": "cosine", "lr_warmup_steps": 20, "checkpoint_every": 100, "validate_every": 0,
    "validation_inference_steps": 20, "validation_guidance_scale": 3.0, "cpu_threads": 1,
}  # fmt: skip
_LONG: dict[str, object] = {"steps": 300}
_LORA: dict[str, object] = {**_LONG, "method": "lora", "learning_rate": 2e-3}
_CONSTANT: dict[str, object] = {"lr_schedule": "constant", "checkpoint_every": 50}
_MIXED: dict[str, object] = {"prior_sampling": "mixed"}

EXPERIMENTS: dict[str, tuple[Variant, ...]] = {
    "prior": (
        Variant("the base itself", {"steps": 0}),
        Variant("no class images", class_images=0),
        Variant("λ = 0.3", {"prior_loss_weight": 0.3}),
        Variant("λ = 1"),
        Variant("λ = 3", {"prior_loss_weight": 3.0}),
    ),
    "class-prompts": (
        Variant("no class images", class_images=0),
        Variant('24 of "a robot"'),
        Variant('3 of "a robot", 21 in the six places', class_places=True),
        Variant('24 of "a robot", 300 steps', _LONG),
        Variant('3 of "a robot", 21 in the six places, 300 steps', _LONG, class_places=True),
    ),
    "mixing": (
        Variant("paired, λ = 1"),
        Variant("mixed 1 : 1, λ = 1, 200 steps", {**_MIXED, "steps": 200}),
        Variant(
            "mixed 2 : 1, λ = 2, 150 steps",
            {**_MIXED, "steps": 150, "prior_loss_weight": 2.0},
            class_probability=0.5,
        ),
        Variant("mixed 1 : 1, λ = 1, 100 steps", _MIXED),
        Variant("paired, λ = 0.3", {"prior_loss_weight": 0.3}),
        Variant("mixed 1 : 1, λ = 0.3, 200 steps", {**_MIXED, "steps": 200, "prior_loss_weight": 0.3}),
    ),
    "word": (
        Variant('"sks robot"', _LONG),
        Variant('"red robot"', _LONG, name="red robot"),
        Variant('"robot"', _LONG, name="a robot"),
    ),
    "rank": (
        *(Variant(f"LoRA, rank {rank}", {**_LORA, "lora_rank": rank}) for rank in (2, 8, 32)),
        Variant("all weights", _LONG),
    ),
    "best": tuple(
        Variant(
            f"{steps} steps",
            {**_CONSTANT, "learning_rate": 1e-3, "steps": steps},
            class_images=0,
            captions=False,
        )
        for steps in (50, 100, 200, 400)
    ),
    "captions": (
        Variant("a caption for each photo"),
        Variant("one prompt for all", captions=False),
    ),
    "interruption": (
        Variant("undisturbed", _LONG),
        Variant("stopped every 70 steps", _LONG, stop_every=70),
    ),
    "steps": tuple(
        Variant(f"{steps} steps", {**_CONSTANT, "steps": steps}, class_images=0) for steps in (50, 100, 200, 400, 800)
    ),
}
GROWING = ("best", "steps")
"""Each variant of these is the next one's checkpoint: one training at a constant rate, measured on its way."""


def key_of(variant: Variant, base: Path) -> str:
    """Equal variants of several experiments are one run; on another base or with other defaults it is another."""
    changed = {key: value for key, value in dataclasses.asdict(variant).items() if value != getattr(Variant(""), key)}
    told = changed | {"label": "", "defaults": DEFAULTS, "base": _content_sha256(base)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


@cache
def _content_sha256(base: Path) -> str:
    return shipped.content_sha256(base)
