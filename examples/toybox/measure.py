"""What a model of the Toybox world can do, in numbers: `python measure.py [MODEL_FOLDER]`.

Without a folder it measures `builtin:toybox`: how well prompts steer it, and what its autoencoder keeps. The
experiments ask a trained model for the subject and for what it should not have forgotten with the same functions.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import autoencoder
import judge
import world
from pen import Pattern
from remote_trainer.bases.resolve import resolve_base
from remote_trainer.denoising import Denoising
from remote_trainer.encoded import encode_prompts
from remote_trainer.families.detect import open_base
from remote_trainer.sampling import SamplerSettings, sample_latents

SETTINGS = SamplerSettings(inference_steps=20, guidance_scale=3.0, side=world.SIDE)
_BATCH = 16
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Steering:
    """How often a prompt that names all of it got it. Chance is 1/12, 1/8, 1/3 and 1/6."""

    kind: judge.Share
    color: judge.Share
    pattern: judge.Share
    background: judge.Share


def pictures(model: Path, prompts: Sequence[str], seed: int = 0) -> NDArray[np.uint8]:
    """One picture for each prompt: (N, 64, 64, 3). Its noise depends on the seed and its place alone. Blocks."""
    family = open_base(str(model))
    embedded = encode_prompts(family, [*prompts, ""], _CPU, lambda _: None)
    denoising = Denoising(family, family.load_denoiser(_CPU), _CPU, "fp32")
    decoder = family.load_autoencoder(_CPU)
    decoded = []
    for first in range(0, len(prompts), _BATCH):
        batch = prompts[first : first + _BATCH]
        keys = [("measure", seed, first + place) for place in range(len(batch))]
        text = embedded.batch(batch)
        latents = sample_latents(denoising, text, embedded.batch([""]), keys, SETTINGS)
        decoded.append(((decoder.decode(latents) + 1.0) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(decoded)


def steering(model: Path, rounds: int = 1, seed: int = 0) -> Steering:
    """Each round asks for every kind in every color once, 96 pictures; patterns and backgrounds take turns."""
    asked = [
        (kind, color, world.PATTERNS[number % 3], world.BACKGROUNDS[(number + number // 6) % 6])
        for number, (kind, color) in enumerate(list(itertools.product(world.KINDS, world.COLORS)) * rounds)
    ]
    prompts = [_prompt(*each) for each in asked]
    verdicts = judge.judged(pictures(model, prompts, seed))
    both = list(zip(asked, verdicts, strict=True))
    return Steering(
        kind=judge.share([verdict.kind == each[0] for each, verdict in both]),
        color=judge.share([verdict.color == each[1] for each, verdict in both]),
        pattern=judge.share([verdict.pattern == each[2] for each, verdict in both]),
        background=judge.share([verdict.background == each[3] for each, verdict in both]),
    )


def kept_by_autoencoder(model: Path, count: int = 120) -> tuple[float, float, judge.Share]:
    """Mean dB of world drawings, mean dB of the subject, and how often the judge still sees the subject."""
    vae = open_base(str(model)).load_autoencoder(_CPU)
    rng = np.random.default_rng(99)
    things = [world.random_scene(rng) for _ in range(count)]
    subjects = [world.subject_scene(rng, world.BACKGROUNDS[number % 6]) for number in range(count)]
    heard, seen = [], []
    for scenes in (things, subjects):
        pixels = judge.as_input(np.stack([world.draw(scene).pixels for scene in scenes]))
        decoded = vae.decode(vae.encode(pixels)[0])
        heard.append(float(autoencoder.peak_signal_to_noise_db(pixels, decoded).mean()))
        seen = judge.judged(((decoded + 1.0) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return heard[0], heard[1], judge.share([verdict.is_subject for verdict in seen])


def _prompt(kind: world.Kind, color: world.Color, pattern: Pattern, background: world.Background) -> str:
    words = [color, *([pattern] if pattern != "plain" else []), kind]
    article = "an" if words[0][0] in "aeiou" else "a"
    return world.prompt(" ".join([article, *words]), background)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="a diffusers folder; default: builtin:toybox")
    parser.add_argument("--rounds", type=int, default=1, help="96 pictures each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = arguments.model or Path(resolve_base("builtin:toybox", Path()))
    found = steering(model, arguments.rounds)
    print(f"kind        {found.kind}")
    print(f"color       {found.color}")
    print(f"pattern     {found.pattern}")
    print(f"background  {found.background}")
    things_db, subject_db, seen = kept_by_autoencoder(model)
    print(f"autoencoder {things_db:.1f} dB; the subject {subject_db:.1f} dB, still the subject {seen}")


if __name__ == "__main__":
    main()
