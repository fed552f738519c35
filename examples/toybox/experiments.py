"""What the recipes do, measured: `python experiments.py WORK_FOLDER [NAME …]`, one experiment after the other.

Every run goes through the trainer that a rented machine runs, on `builtin:toybox`, with the six photos of `photos/`.
Each result is a small JSON file in WORK_FOLDER: what is there is not run again, so the script may be stopped at any
time. At the end it prints the tables of docs/experiments.md; `--table` prints them from what is there, and `--release`
writes them, and the results beside this file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import judge
import world
from draw_photos import draw_all
from questions import counted
from remote_trainer import wire
from remote_trainer.bases.resolve import resolve_base
from remote_trainer.dataset.pictures import Framing
from remote_trainer.denoising import Denoising
from remote_trainer.encoded import EncodedPicture, encode_prompts
from remote_trainer.evaluation import evaluate
from remote_trainer.families.detect import open_base
from remote_trainer.posteriors import Posteriors
from remote_trainer.train import train
from tables import Result, file_of, of_folder, release, store, tables_of
from variants import DEFAULTS, EXPERIMENTS, GROWING, Variant

CLASS_PROMPT = world.prompt("a robot")
_WEIGHTS = "output/diffusers/unet/diffusion_pytorch_model.safetensors"
_HELD_OUT = 76
"""A seed of drawings that nobody trains on."""
_CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", choices=[*EXPERIMENTS, []], help="in this order; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", default="builtin:toybox")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--release", action="store_true", help="run nothing, write what is there into the docs")
    arguments = parser.parse_args()
    base = Path(resolve_base(arguments.base, arguments.folder))
    if arguments.release:
        release(of_folder(arguments.folder), base)
        return
    chosen = arguments.names or list(EXPERIMENTS)
    if not arguments.table:
        for name in chosen:
            for seed in range(arguments.seeds):
                _run_all(arguments.folder, base, EXPERIMENTS[name], seed, in_one_go=name in GROWING)
    for name in chosen:
        print("\n".join([f"### {name}", "", *tables_of(name, of_folder(arguments.folder), base), ""]))


def _run_all(folder: Path, base: Path, variants: Sequence[Variant], seed: int, *, in_one_go: bool) -> None:
    """in_one_go: each goes on from the checkpoint of the one before it."""
    absent = [number for number, variant in enumerate(variants) if not file_of(folder, variant, base, seed).exists()]
    if not absent:
        return
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [variants[: absent[-1] + 1]] if in_one_go else [[variants[number]] for number in absent]
    for task in tasks:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for variant in task:
                is_new = not file_of(folder, variant, base, seed).exists()
                print(f"{variant.label}, seed {seed}: {variant.steps} steps begin", file=sys.stderr, flush=True)
                result = run(variant, seed, base, Path(scratch), folder / "class-images", is_measured=is_new)
                if result is not None:
                    store(result, variant, base, seed, folder)
                    told = f"subject {result.subject}, drift {result.drift}, {result.train_s:.0f} s"
                    print(f"{variant.label}, seed {seed}: {told}", file=sys.stderr, flush=True)


def run(
    variant: Variant,
    seed: int,
    base: Path,
    folder: Path,
    shelf: Path | None = None,
    *,
    is_measured: bool = True,
    rounds: int = 2,
) -> Result | None:
    """Trains in `folder` and measures; blocks for a minute or two on one core. Goes on from what is in `folder`.

    shelf: keeps class images for other runs of the same seed. rounds: of questions.
    """
    if variant.steps == 0:
        return Result(**vars(counted(base, variant.name, seed)))
    job = job_of(variant, seed, folder)
    began = time.monotonic()
    finished = False
    while not finished:
        interruption = _Interruption(variant.stop_every)
        outcome = train(job, folder, str(base), interruption.emit, interruption.should_stop, shelf)
        finished = outcome.manifest_sha256 is not None
    train_s = time.monotonic() - began
    if not is_measured:
        return None
    model = folder / "output" / "diffusers"
    record = json.loads((folder / "output" / "training.json").read_text())
    return Result(
        **vars(counted(model, variant.name, seed, rounds)),
        train_s=train_s,
        weights_sha256=hashlib.sha256((folder / _WEIGHTS).read_bytes()).hexdigest(),
        photo_loss=record["evaluations"][-1]["mean_loss"],
        held_out_loss=held_out_loss(model, variant.name, seed),
    )


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
            datasets.append(
                wire.DatasetSpec(
                    name, "class", f"data/{name}", prompt, generate=count, repeats=None,
                    probability=variant.class_probability,
                )
            )  # fmt: skip
    spec = wire.TrainSpec(**{**DEFAULTS, **variant.settings, "seed": seed})  # type: ignore[arg-type]
    return wire.Job("experiment", "robot", "builtin:toybox", spec, tuple(datasets), ("diffusers",), allow_cpu=True)


def held_out_loss(model: Path, name: str, seed: int) -> float:
    """The trainer's own score, over drawings that nobody has trained on: the subject in each of the six places."""
    family = open_base(str(model))
    scenes = [
        world.subject_scene(np.random.default_rng((_HELD_OUT, number)), place)
        for number, place in enumerate(world.BACKGROUNDS)
    ]
    pixels = judge.as_input(np.stack([world.draw(scene).pixels for scene in scenes]))
    means, stds = family.load_autoencoder(_CPU).encode(pixels)
    captions = [world.prompt(name, place) for place in world.BACKGROUNDS]
    framing = Framing.whole(world.SIDE, world.SIDE)
    posteriors = Posteriors(_CPU)
    pictures = [
        EncodedPicture(posteriors.keep(mean, std), caption, framing)
        for mean, std, caption in zip(means, stds, captions, strict=True)
    ]
    denoising = Denoising(family, family.load_denoiser(_CPU), _CPU, "fp32")
    prompts = encode_prompts(family, captions, _CPU, lambda _: None)
    return evaluate(denoising, pictures, prompts, seed, 0).mean_loss


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; what has ended is kept, and the same line goes on")
