"""Says what is on a picture of the Toybox world, and how often a model did as it was told.

The judge is a small convolutional network, trained by `train_judge.py` on drawings whose truth is known and on what
the base's autoencoder makes of them, and shipped beside this file. Shares come with Wilson's 95 % interval.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import world
from pen import Pattern

WEIGHTS = Path(__file__).with_name("judge.safetensors")
_TOPICS = {"kind": world.KINDS, "color": world.COLORS, "pattern": world.PATTERNS, "background": world.BACKGROUNDS}
_Z = 1.96
"""Deviations of a normal distribution that hold 95 % of it."""


@dataclass(frozen=True)
class Verdict:
    kind: world.Kind
    color: world.Color
    pattern: Pattern
    background: world.Background
    is_subject: bool
    """The personal subject: teal, two orange stripes, one eye."""


@dataclass(frozen=True)
class Share:
    """How many of n did as they should, and Wilson's 95 % interval (1927) for the true share."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        return self.hits / self.n

    @property
    def interval(self) -> tuple[float, float]:
        middle = (self.value + _Z**2 / (2 * self.n)) / (1 + _Z**2 / self.n)
        spread = math.sqrt(self.value * (1 - self.value) / self.n + _Z**2 / (4 * self.n**2))
        half = _Z * spread / (1 + _Z**2 / self.n)
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.2f} ({low:.2f}–{high:.2f}, n={self.n})"


def share(claims: Sequence[bool]) -> Share:
    """Of the claims that hold. Raises ValueError for none at all."""
    if not claims:
        raise ValueError("a share of no pictures has no value")
    return Share(sum(claims), len(claims))


def judged(pictures: NDArray[np.uint8]) -> list[Verdict]:
    """pictures: (N, 64, 64, 3), RGB. Takes about 1 ms each."""
    with torch.no_grad():
        _, answers = _judge()(as_input(pictures))
    best = {topic: answers[topic].argmax(1).tolist() for topic in _TOPICS}
    return [
        Verdict(
            kind=world.KINDS[best["kind"][row]],
            color=world.COLORS[best["color"][row]],
            pattern=world.PATTERNS[best["pattern"][row]],
            background=world.BACKGROUNDS[best["background"][row]],
            is_subject=bool(answers["subject"][row, 0] > 0),
        )
        for row in range(len(pictures))
    ]


def diversity(pictures: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean distance between pictures in the judge's features, and its standard error by the jackknife.

    0 when all are the same; about 1 for independent drawings of the world, whose features are scaled so.
    Raises ValueError for fewer than three pictures.
    """
    count = len(pictures)
    if count < 3:
        raise ValueError("diversity takes at least three pictures")
    with torch.no_grad():
        features, _ = _judge()(as_input(pictures))
    distances = torch.cdist(features, features)
    total = distances.sum()
    without_each = (total - 2 * distances.sum(1)) / ((count - 1) * (count - 2))
    spread = (without_each - without_each.mean()).square().sum() * (count - 1) / count
    return float(total / (count * (count - 1))), float(spread.sqrt())


def as_input(pictures: NDArray[np.uint8]) -> Tensor:
    """(N, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


class JudgeNetwork(nn.Module):
    """0.27 M parameters: (B, 3, 64, 64) in [-1, 1] → features (B, 128) and logits by topic; `subject` has one."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = (3, 24, 48, 64, 96)
        for wide, (before, after) in enumerate(itertools.pairwise(widths)):
            size = 5 if wide == 0 else 3
            layers += [nn.Conv2d(before, after, size, stride=2, padding=size // 2), nn.GroupNorm(8, after), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.wide = nn.Sequential(nn.Conv2d(96, 128, 3, padding=1), nn.SiLU())
        heads = {topic: len(answers) for topic, answers in _TOPICS.items()} | {"subject": 1}
        self.heads = nn.ModuleDict({topic: nn.Linear(256, count) for topic, count in heads.items()})
        self.feature_scale = nn.Buffer(torch.ones(()))

    def forward(self, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        grid = self.wide(self.body(pixels))
        features = torch.cat([grid.mean((2, 3)), grid.amax((2, 3))], dim=1)
        return features * self.feature_scale, {topic: head(features) for topic, head in self.heads.items()}


@cache
def _judge() -> JudgeNetwork:
    from safetensors.torch import load_file

    network = JudgeNetwork()
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
    return network.requires_grad_(False).eval()
