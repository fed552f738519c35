"""From a run's settings to a trainer's inputs: what is taken over, what is left out, and why. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from providers.errors import CloudboothError
from providers.jobs import JobWish, MappedField, Value
from providers.replicate.trainers import DEFAULT_TRAINER, Trainer

NO_CHECKPOINTS = "a hosted job hands out no checkpoints: it ends with its model or without one"
NO_PICTURES = "the trainer makes no pictures on the way: `cloudbooth generate` makes them afterwards"
ITS_OWN = "the trainer decides it by itself"
REASONS: Mapping[str, str] = {
    "train.checkpoint_every": NO_CHECKPOINTS,
    "train.keep_checkpoints": NO_CHECKPOINTS,
    "train.export_step": NO_CHECKPOINTS,
    "train.validate_every": NO_PICTURES,
    "train.validation_prompts": NO_PICTURES,
    "train.validation_inference_steps": NO_PICTURES,
    "train.validation_guidance_scale": NO_PICTURES,
    "train.precision": ITS_OWN,
    "train.cpu_threads": "nothing is computed on a machine of ours",
    "train.seed": "the trainer takes no seed: two equal runs differ",
    "train.resolution": "the trainer has sizes of its own; photos are made ready for the largest",
    "train.aspect_buckets": ITS_OWN,
    "train.prior_loss_weight": "the trainer takes no class images",
    "data.regularization": "the trainer takes no class images",
    "subject.class_prompt": "the trainer takes no class images",
    "model.base": "the trainer brings its base along",
}
NO_MACHINE = "no machine is rented"
NO_SUCH_INPUT = "the trainer has no such input"
NEEDED = frozenset({"train.method"})
"""Keys that are no matter of inputs."""


def choose_trainer(trainers: Mapping[str, Trainer], wanted: str | None, base: str | None) -> Trainer:
    """By name, else by the base that it adapts, else the default.

    Raises CloudboothError for a name that there is not, and for a base that no trainer adapts.
    """
    if wanted is not None:
        if wanted not in trainers:
            near = difflib.get_close_matches(wanted, trainers, n=1)
            raise CloudboothError(
                f'there is no trainer "{wanted}" for Replicate; there are {", ".join(trainers)}',
                f"--set compute.replicate.trainer={near[0] if near else DEFAULT_TRAINER}",
            )
        return trainers[wanted]
    if base is None:
        return trainers[DEFAULT_TRAINER]
    plain = base.partition("@")[0].lower()
    for trainer in trainers.values():
        if plain in {known.lower() for known in (trainer.trains, *trainer.also_trains)}:
            return trainer
    bases = ", ".join(dict.fromkeys(trainer.trains for trainer in trainers.values()))
    raise CloudboothError(
        f"no trainer on Replicate adapts {base}; those known here adapt {bases}",
        "rent a machine for this base: --provider runpod, or leave model.base out",
    )


def map_fields(trainer: Trainer, wish: JobWish) -> tuple[dict[str, Value], tuple[MappedField, ...]]:
    """The inputs without the data set, and what became of every key that was stated or is taken over.

    Raises CloudboothError for a value out of the trainer's range and for what it cannot do at all.
    """
    method = wish.settings.get("train.method")
    if method not in (None, "lora"):
        raise CloudboothError(
            f'{trainer.name} makes LoRAs, and train.method is "{method}"',
            "--set train.method=lora, or rent a machine: --provider runpod",
        )
    inputs, fields = dict(trainer.constants), list[MappedField]()
    for key, name in trainer.inputs.items():
        value = wish.settings.get(key)
        if value is None:
            continue
        _require_range(trainer, key, name, value)
        inputs[name] = value
        fields.append(MappedField(key, _shown(value), name))
    for key in sorted(wish.stated - trainer.inputs.keys() - NEEDED):
        usual = NO_MACHINE if key.startswith(("compute.", "limits.")) else NO_SUCH_INPUT
        fields.append(MappedField(key, _shown(wish.settings.get(key, "")), "", REASONS.get(key, usual)))
    return inputs, tuple(fields)


def estimated_seconds(trainer: Trainer, steps: int) -> tuple[float, float, float]:
    low, expected, high = (fixed + steps * step for fixed, step in zip(trainer.fixed_s, trainer.step_s, strict=True))
    return low, expected, high


def _require_range(trainer: Trainer, key: str, name: str, value: Value) -> None:
    limits = trainer.ranges.get(name)
    if limits is None or isinstance(value, (str, bool)) or limits.low <= value <= limits.high:
        return
    nearest = limits.low if value < limits.low else limits.high
    raise CloudboothError(
        f"{trainer.name} takes {name} from {limits.low:g} to {limits.high:g}, and {key} is {value:g}",
        f"--set {key}={nearest:g}",
    )


def _shown(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
