"""Trains the judge anew: `python train_judge.py [BASE_FOLDER]`, about three minutes on one core.

Half of what it sees are plain drawings; the rest are drawings as a model would blur them: shrunk and enlarged, noisy,
or through the autoencoder of the base with errors in the latents. A sixth shows the personal subject and a sixth those
that differ from it in one thing. Held-out drawings are judged at the end.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import judge
import world

STEPS = 2500
BATCH = 48
_SEED = 74
_POOL = 9_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, nargs="?", help="a diffusers folder; default: the one that is shipped")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(_SEED)
    scenes = [training_scene(index) for index in range(_POOL)]
    pixels = drawn(scenes)
    blurred = round_trip(arguments.base, pixels[: _POOL // 3])
    network = judge.JudgeNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
    truths = truth_of(scenes)
    for step in range(STEPS):
        draw = torch.Generator().manual_seed(_SEED * 10**6 + step)
        rows = torch.randint(_POOL, (BATCH,), generator=draw)
        rows[: BATCH // 3] %= _POOL // 3
        chosen = pixels[rows].clone()
        chosen[: BATCH // 3] = blurred[rows[: BATCH // 3]]
        _, answers = network(_degraded(chosen, draw))
        loss = _loss(answers, {topic: truth[rows] for topic, truth in truths.items()})
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if step % 250 == 0:
            print(f"step {step} loss {loss.item():.3f}", flush=True)
    with torch.no_grad():
        features, _ = network(pixels[:500])
        network.feature_scale.copy_(1.0 / torch.pdist(features).mean())
    save_file({name: tensor.half() for name, tensor in network.state_dict().items()}, judge.WEIGHTS)


def training_scene(index: int) -> world.Scene:
    rng = np.random.default_rng((_SEED, index))
    match index % 6:
        case 0:
            return world.subject_scene(rng, world.BACKGROUNDS[rng.integers(6)])
        case 1:
            return world.wrong_subject_scene(rng)
        case 2:
            return world.random_scene(rng, kind="robot")
        case _:
            return world.random_scene(rng)


def drawn(scenes: list[world.Scene]) -> Tensor:
    """(N, 3, 64, 64) in [-1, 1]."""
    return judge.as_input(np.stack([world.draw(scene).pixels for scene in scenes]))


@torch.no_grad()
def round_trip(base: Path | None, pixels: Tensor) -> Tensor:
    """Through the autoencoder, with errors of 0 to 0.4 deviations added to the latents of each picture."""
    from diffusers import AutoencoderKL

    folder = base or _shipped_base()
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    decoded = []
    for first in range(0, len(pixels), 50):
        draw = torch.Generator().manual_seed(first)
        latents = vae.encode(pixels[first : first + 50]).latent_dist.mean
        amount = 0.4 * torch.rand(len(latents), 1, 1, 1, generator=draw)
        coarse = torch.randn(*latents.shape[:2], 8, 8, generator=draw)
        error = torch.randn(latents.shape, generator=draw) + nn.functional.interpolate(coarse, size=latents.shape[2:])
        decoded.append(vae.decode(latents + amount * error).sample.clamp(-1, 1))
    return torch.cat(decoded)


def _shipped_base() -> Path:
    from remote_trainer.bases import shipped

    return shipped.folder_of("toybox")


def truth_of(scenes: list[world.Scene]) -> dict[str, Tensor]:
    """Row by row; -100 where the world has no word for it, which no loss counts."""

    def index(answers: tuple[str, ...], answer: str, known: bool = True) -> int:
        return answers.index(answer) if known else -100

    return {
        "kind": torch.tensor([index(world.KINDS, scene.kind) for scene in scenes]),
        "color": torch.tensor([index(world.COLORS, scene.color, scene.look is None) for scene in scenes]),
        "pattern": torch.tensor([index(world.PATTERNS, scene.pattern) for scene in scenes]),
        "background": torch.tensor([index(world.BACKGROUNDS, scene.background) for scene in scenes]),
        "subject": torch.tensor([scene.look == world.SUBJECT and scene.pattern == "striped" for scene in scenes]),
    }


def _loss(answers: dict[str, Tensor], truths: dict[str, Tensor]) -> Tensor:
    asked = [
        nn.functional.cross_entropy(answers[topic], truths[topic])
        for topic in ("kind", "color", "pattern", "background")
    ]
    subject = nn.functional.binary_cross_entropy_with_logits(answers["subject"][:, 0], truths["subject"].float())
    return torch.stack([*asked, 2.0 * subject]).sum()


def _degraded(pixels: Tensor, draw: torch.Generator) -> Tensor:
    """A quarter shrunk to 24 to 48 pixels and enlarged again, a quarter noisy."""
    quarter = len(pixels) // 4
    picked = torch.randperm(len(pixels), generator=draw)
    side = int(torch.randint(24, 49, (), generator=draw))
    small = nn.functional.interpolate(pixels[picked[:quarter]], size=side, mode="bilinear", antialias=True)
    pixels[picked[:quarter]] = nn.functional.interpolate(small, size=world.SIDE, mode="bilinear")
    noisy = picked[quarter : 2 * quarter]
    pixels[noisy] += 0.15 * torch.randn(pixels[noisy].shape, generator=draw)
    return pixels


if __name__ == "__main__":
    main()
