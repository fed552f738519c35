"""What the recipes do, measured: `python experiments.py WORK_FOLDER [NAME …]`, one experiment after the other.

Every run goes through the trainer that a rented machine runs, on `builtin:toybox`, with the six photos of `photos/`.
Each result is a small JSON file in WORK_FOLDER: what is there is not run again, so the script may be stopped at any
time. At the end it prints the tables of docs/experiments.md; `--table` prints them from what is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import judge
import measure
import world
from draw_photos import draw_all
from remote_trainer import wire
from remote_trainer.bases import shipped
from remote_trainer.bases.resolve import resolve_base
from remote_trainer.train import train

CLASS_PROMPT = world.prompt("a robot")
_CLASS_IMAGES = 24
_WEIGHTS = "output/diffusers/unet/diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Variant:
    """One way to train. Everything that is not named is as in `robot.toml`, whose reasons stand there."""

    label: str
    settings: dict[str, object] = field(default_factory=dict)
    """Of `TrainSpec`, other than the defaults below; 0 steps: the base is measured as it is."""
    name: str = "sks robot"
    """What the captions call the subject."""
    class_images: int = _CLASS_IMAGES
    stop_every: int = 0
    """Steps after which the process is asked to stop and started again; 0: never."""
    captions: bool = True
    """False: every photo has the same prompt, so that the place is part of the name."""
    class_places: bool = False
    """Class images of robots in each of the six places too, as many altogether, instead of "a robot" alone."""


@dataclass(frozen=True)
class Result:
    """Counts of pictures, all 24 or 48 with noise of their own. Stored as JSON."""

    subject: judge.Share
    """"NAME …" in each of the six places: is it the subject?"""
    unseen: judge.Share
    """Of those, at night and in the snow."""
    place: judge.Share
    """Of all of them: is it the place that was asked for?"""
    drift: judge.Share
    """"a robot", "a red robot", …: has it turned into the subject?"""
    placed_drift: judge.Share | None
    """"a robot on the grass", …: the same. None in results of before this was asked."""
    color: judge.Share
    """Of the colored ones: is it the color that was asked for?"""
    kinds: judge.Share
    """Other things: are they still what they are called?"""
    diversity: float
    """Of "a robot"."""
    train_s: float
    weights_sha256: str


DEFAULTS: dict[str, object] = {
    "method": "full", "steps": 300, "resolution": world.SIDE, "batch_size": 4, "learning_rate": 2e-4,
    "lr_schedule": "cosine", "lr_warmup_steps": 20, "checkpoint_every": 100, "validate_every": 0,
    "validation_inference_steps": 20, "validation_guidance_scale": 3.0, "cpu_threads": 1,
}  # fmt: skip
_LORA: dict[str, object] = {"method": "lora", "learning_rate": 2e-3}
_CONSTANT: dict[str, object] = {"lr_schedule": "constant", "checkpoint_every": 50}

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
    ),
    "mixing": (
        Variant("paired, λ = 1"),
        Variant("mixed evenly, twice the steps", {"prior_sampling": "mixed", "steps": 600}),
        Variant("mixed evenly, the same steps", {"prior_sampling": "mixed"}),
    ),
    "rank": (
        *(Variant(f"LoRA, rank {rank}", {**_LORA, "lora_rank": rank}) for rank in (2, 8, 32)),
        Variant("all weights"),
    ),
    "steps": tuple(
        Variant(f"{steps} steps", {**_CONSTANT, "steps": steps}, class_images=0) for steps in (50, 100, 200, 400, 800)
    ),
    "interruption": (
        Variant("undisturbed"),
        Variant("stopped every 70 steps", stop_every=70),
    ),
    "word": (
        Variant('"sks robot"'),
        Variant('"red robot"', name="red robot"),
        Variant('"robot"', name="a robot"),
    ),
    "captions": (
        Variant("a caption for each photo"),
        Variant("one prompt for all", captions=False),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", choices=[*EXPERIMENTS, []], help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", default="builtin:toybox")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is there")
    arguments = parser.parse_args()
    base = Path(resolve_base(arguments.base, arguments.folder))
    chosen = arguments.names or list(EXPERIMENTS)
    if not arguments.table:
        for seed in range(arguments.seeds):
            for name in chosen:
                for variant in EXPERIMENTS[name]:
                    _once(arguments.folder, base, variant, seed)
    for name in chosen:
        print("\n".join(table(arguments.folder, name, base)))


def table(folder: Path, name: str, base: Path) -> list[str]:
    """Lines of markdown. Counts of all seeds are added up; what was not run is left out."""
    lines = [
        f"### {name}",
        "",
        "| | subject | unseen places | place | drift | drift in places | color | other kinds | diversity | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for variant in EXPERIMENTS[name]:
        found = [_read(path) for path in sorted(folder.glob(f"{key_of(variant, base)}-seed*.json"))]
        if found:
            shares = (
                _added(getattr(result, each) for result in found)
                for each in ("subject", "unseen", "place", "drift", "placed_drift", "color", "kinds")
            )
            diversity = sum(result.diversity for result in found) / len(found)
            cells = [variant.label, *(str(share or "–") for share in shares), f"{diversity:.2f}", str(len(found))]
            lines.append("| " + " | ".join(cells) + " |")
    if name == "interruption":
        pairs = [sorted(folder.glob(f"{key_of(variant, base)}-seed*.json")) for variant in EXPERIMENTS[name]]
        equal = [_read(one).weights_sha256 == _read(two).weights_sha256 for one, two in zip(*pairs, strict=False)]
        lines += ["", f"Weights equal bit for bit: {sum(equal)} of {len(equal)} pairs."]
    return [*lines, ""]


def _added(shares: Iterable[judge.Share | None]) -> judge.Share | None:
    several = [each for each in shares if each is not None]
    if not several:
        return None
    return judge.Share(sum(each.hits for each in several), sum(each.n for each in several))


def key_of(variant: Variant, base: Path) -> str:
    """Equal variants of several experiments are one run; on another base or with other defaults it is another."""
    changed = {key: value for key, value in dataclasses.asdict(variant).items() if value != getattr(Variant(""), key)}
    told = changed | {"label": "", "defaults": DEFAULTS, "base": shipped.content_sha256(base)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _once(folder: Path, base: Path, variant: Variant, seed: int) -> None:
    file = folder / f"{key_of(variant, base)}-seed{seed}.json"
    if file.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        result = run(variant, seed, base, Path(scratch))
    store(result, variant, base, seed, folder)
    told = f"subject {result.subject}, drift {result.drift}, {result.train_s:.0f} s"
    print(f"{variant.label}, seed {seed}: {told}", file=sys.stderr, flush=True)


def store(result: Result, variant: Variant, base: Path, seed: int, folder: Path) -> None:
    """The file appears whole or not at all."""
    file = folder / f"{key_of(variant, base)}-seed{seed}.json"
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps({"label": variant.label} | dataclasses.asdict(result), indent=1) + "\n")
    unfinished.replace(file)


def _read(path: Path) -> Result:
    content: dict[str, Any] = json.loads(path.read_text())
    del content["label"]
    content.setdefault("placed_drift", None)
    shares = {key: judge.Share(**value) for key, value in content.items() if isinstance(value, dict)}
    return Result(**{**content, **shares})


def run(variant: Variant, seed: int, base: Path, folder: Path) -> Result:
    """Trains in `folder` and measures. Blocks for a minute or two on one core."""
    if variant.settings.get("steps") == 0:
        return _measured(base, variant.name, seed, 0.0, "")
    job = job_of(variant, seed, folder)
    began = time.monotonic()
    finished = False
    while not finished:
        interruption = _Interruption(variant.stop_every)
        outcome = train(job, folder, str(base), interruption.emit, interruption.should_stop)
        finished = outcome.manifest_sha256 is not None
    train_s = time.monotonic() - began
    model = folder / "output" / "diffusers"
    weights = hashlib.sha256((folder / _WEIGHTS).read_bytes()).hexdigest()
    return _measured(model, variant.name, seed, train_s, weights)


@dataclass
class _Interruption:
    """Asks one process to stop after so many of its steps; 0: never. The trainer polls once before each step."""

    after_steps: int
    _polls: int = -1

    def emit(self, event: wire.Event) -> None:
        if isinstance(event, wire.PhaseStarted) and event.name == "train" and self._polls < 0:
            self._polls = 0

    def should_stop(self) -> bool:
        if not self.after_steps or self._polls < 0:
            return False
        self._polls += 1
        return self._polls > self.after_steps


def job_of(variant: Variant, seed: int, folder: Path) -> wire.Job:
    """Draws the photos into `folder` and says how to train on them."""
    paths = draw_all(folder / "data" / "instance")
    images = tuple(
        wire.ImageSpec(
            path.name,
            hashlib.sha256(path.read_bytes()).hexdigest(),
            world.SIDE,
            world.SIDE,
            path.with_suffix(".txt").read_text().strip().replace("sks robot", variant.name)
            if variant.captions
            else None,
        )
        for path in paths
    )
    datasets = [wire.DatasetSpec("subject", "instance", "data/instance", world.prompt(variant.name), images)]
    if variant.class_images:
        prompts = [CLASS_PROMPT]
        if variant.class_places:
            prompts += [world.prompt("a robot", place) for place in world.BACKGROUNDS]
        each, more = divmod(variant.class_images, len(prompts))
        for number, prompt in enumerate(prompts):
            name = f"class-{number}" if variant.class_places else "class"
            count = each + (number > 0 and number <= more)
            datasets.append(wire.DatasetSpec(name, "class", f"data/{name}", prompt, generate=count))
    spec = wire.TrainSpec(**{**DEFAULTS, **variant.settings, "seed": seed})  # type: ignore[arg-type]
    return wire.Job("experiment", "robot", "builtin:toybox", spec, tuple(datasets), ("diffusers",), allow_cpu=True)


def _measured(model: Path, name: str, seed: int, train_s: float, weights_sha256: str) -> Result:
    named = [(place, world.prompt(name, place)) for place in world.BACKGROUNDS] * 4
    robots = [world.prompt("a robot")] * 8 + [world.prompt(_colored(color, "robot")) for color in world.COLORS] * 2
    kinds = [(kind, world.prompt(_colored(world.COLORS[n % 8], kind))) for n, kind in enumerate(world.KINDS)]
    others = [each for each in kinds if each[0] != "robot"] * 2
    placed = [world.prompt("a robot", place) for place in world.BACKGROUNDS] * 2
    prompts = [*(prompt for _, prompt in named), *robots, *(prompt for _, prompt in others), *placed]
    drawn = measure.pictures(model, prompts, seed)
    verdicts = judge.judged(drawn)
    of_subject, of_robots, of_others, of_placed = verdicts[:24], verdicts[24:48], verdicts[48:70], verdicts[70:]
    return Result(
        subject=judge.share([each.is_subject for each in of_subject]),
        unseen=judge.share(
            [each.is_subject for each, (place, _) in zip(of_subject, named, strict=True) if place in ("night", "snow")]
        ),
        place=judge.share([each.background == place for each, (place, _) in zip(of_subject, named, strict=True)]),
        drift=judge.share([each.is_subject for each in of_robots]),
        placed_drift=judge.share([each.is_subject for each in of_placed]),
        color=judge.share([each.color == color for each, color in zip(of_robots[8:], world.COLORS * 2, strict=True)]),
        kinds=judge.share([each.kind == kind for each, (kind, _) in zip(of_others, others, strict=True)]),
        diversity=judge.diversity(drawn[24:32])[0],
        train_s=train_s,
        weights_sha256=weights_sha256,
    )


def _colored(color: world.Color, kind: str) -> str:
    return f"{'an' if color[0] in 'aeiou' else 'a'} {color} {kind}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
