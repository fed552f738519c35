"""Replicate's trainers as data: who owns them, the pinned version, how a spec's keys become their inputs, the price.

A trainer accepts trainings by version, and not every version does: the newest is no safe choice, so each is pinned.
The user's config file adds trainers and replaces ours, key by key:

    [providers.replicate.trainers.flux-dev-lora]
    version = "…64 hexadecimal digits…"

Figures of time are others' reports of single runs (docs/replicate.md), prices are Replicate's published ones by the
second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from providers.errors import CloudboothError
from providers.jobs import Value, WeightsLayout

A100_USD_PER_S = 0.0014
H100_USD_PER_S = 0.001525
SERVING_USD_PER_S = {
    "cpu": 0.0001,
    "gpu-t4": 0.000225,
    "gpu-l40s": 0.000975,
    "gpu-a100-large": A100_USD_PER_S,
    "gpu-h100": H100_USD_PER_S,
}
"""By SKU."""
_VERSION = r"^[0-9a-f]{64}$"


class Range(BaseModel):
    """What an input may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float
    high: float


class Trainer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    owner: str
    model: str
    """Of the trainer, as in its address: replicate.com/owner/model."""
    version: Annotated[str, Field(pattern=_VERSION)]
    trains: str
    """The hub's id of the model that it adapts."""
    also_trains: tuple[str, ...] = ()
    """Other ids that mean the same model in `model.base`."""
    base_license: str
    """As the hub spells it."""
    dataset_input: str
    inputs: dict[str, str]
    """Key of the spec → input. `subject.trigger` is the rare word of the instance prompt."""
    ranges: dict[str, Range] = {}
    """Input → what the trainer takes."""
    constants: dict[str, Value] = {}
    """Inputs that are always the same."""
    resolution: Annotated[int, Field(ge=64, multiple_of=8)] = 1024
    """Side for which photos are made ready, unless an input is mapped from `train.resolution`."""
    hardware: str
    """What it computes on, as shown."""
    usd_per_s: Annotated[float, Field(gt=0)]
    fixed_s: tuple[float, float, float]
    """Computing time besides the steps: low, expected, high."""
    step_s: tuple[float, float, float]
    weights: str = "lora.safetensors"
    names: Literal["diffusers", "attention-processors"] = "diffusers"
    serving_hardware: str = "gpu-l40s"
    """SKU that a destination is made with: what it would run on. It has nothing to do with the training."""
    lora_runner: str | None = None
    """An official model that takes such a LoRA by address."""

    @property
    def name(self) -> str:
        return f"{self.owner}/{self.model}"

    @property
    def layout(self) -> WeightsLayout:
        return WeightsLayout(self.weights, self.names, self.trains, self.base_license)


TRAINERS: Mapping[str, Trainer] = {
    "flux-dev-lora": Trainer(
        owner="ostris",
        model="flux-dev-lora-trainer",
        version="c6e78d2501e8088876e99ef21e4460d0dc121af7a4b786b9a4c2d75c620e300d",
        trains="black-forest-labs/FLUX.1-dev",
        base_license="other",
        dataset_input="input_images",
        inputs={
            "train.steps": "steps",
            "train.learning_rate": "learning_rate",
            "train.batch_size": "batch_size",
            "train.lora_rank": "lora_rank",
            "subject.trigger": "trigger_word",
        },
        ranges={"steps": Range(low=3, high=6000), "lora_rank": Range(low=1, high=128)},
        constants={"autocaption": False, "resolution": "512,768,1024"},
        hardware="H100",
        usd_per_s=H100_USD_PER_S,
        fixed_s=(60, 150, 300),
        step_s=(0.8, 1.1, 1.7),
        lora_runner="black-forest-labs/flux-dev-lora",
    ),
    "fast-flux": Trainer(
        owner="replicate",
        model="fast-flux-trainer",
        version="8b10794665aed907bb98a1a5324cd1d3a8bea0e9b31e65210967fb9c9e2e08ed",
        trains="black-forest-labs/FLUX.1-dev",
        base_license="other",
        dataset_input="input_images",
        inputs={"train.steps": "training_steps", "train.seed": "seed", "subject.trigger": "trigger_word"},
        ranges={"training_steps": Range(low=500, high=4000)},
        constants={"lora_type": "subject"},
        hardware="8×H100",
        usd_per_s=8 * H100_USD_PER_S,
        fixed_s=(10, 20, 60),
        step_s=(0.08, 0.1, 0.15),
        lora_runner="black-forest-labs/flux-dev-lora",
    ),
    "sdxl": Trainer(
        owner="stability-ai",
        model="sdxl",
        version="39ed52f2a78e934b3ba6e2a89f5b1c712de7dfea535525255b1aa35c5565e08b",
        trains="stabilityai/stable-diffusion-xl-base-1.0",
        base_license="openrail++",
        dataset_input="input_images",
        inputs={
            "train.steps": "max_train_steps",
            "train.resolution": "resolution",
            "train.batch_size": "train_batch_size",
            "train.learning_rate": "lora_lr",
            "train.lora_rank": "lora_rank",
            "train.lr_warmup_steps": "lr_warmup_steps",
            "train.seed": "seed",
            "subject.trigger": "token_string",
            "subject.instance_prompt": "caption_prefix",
        },
        constants={"is_lora": True, "input_images_filetype": "zip"},
        hardware="A100 (80 GB)",
        usd_per_s=A100_USD_PER_S,
        fixed_s=(60, 120, 300),
        step_s=(0.3, 0.7, 1.5),
        names="attention-processors",
    ),
    "qwen-image": Trainer(
        owner="qwen",
        model="qwen-image-lora-trainer",
        version="f28eb39544f2c0dff4fbd9d50588fd75789f7ef26f6118456a96c2eedddddf90",
        trains="Qwen/Qwen-Image",
        base_license="apache-2.0",
        dataset_input="dataset",
        inputs={
            "train.steps": "steps",
            "train.learning_rate": "learning_rate",
            "train.batch_size": "batch_size",
            "train.lora_rank": "lora_rank",
            "train.seed": "seed",
            "subject.instance_prompt": "default_caption",
        },
        ranges={"steps": Range(low=100, high=6000), "lora_rank": Range(low=8, high=128)},
        hardware="H100",
        usd_per_s=H100_USD_PER_S,
        fixed_s=(60, 150, 300),
        step_s=(0.8, 1.1, 1.6),
    ),
}
DEFAULT_TRAINER = "flux-dev-lora"


def trainers_with(config: Mapping[str, Any]) -> dict[str, Trainer]:
    """Ours, with the user's `trainers` table laid over them.

    Raises CloudboothError naming the first key that is wrong.
    """
    known = {name: trainer.model_dump() for name, trainer in TRAINERS.items()}
    added = config.get("trainers", {})
    if not isinstance(added, Mapping):
        raise CloudboothError("providers.replicate.trainers in the config file is no table")
    for name, keys in added.items():
        if not isinstance(keys, Mapping):
            raise CloudboothError(f"providers.replicate.trainers.{name} in the config file is no table")
        known[name] = {**known.get(name, {}), **keys}
    found = {}
    for name, keys in known.items():
        try:
            found[name] = Trainer.model_validate(keys)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CloudboothError(
                f"providers.replicate.trainers.{name}.{where} in the config file: {first['msg'].lower()}",
                "docs/replicate.md shows a whole trainer",
            ) from None
    return found
