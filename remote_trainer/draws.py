"""Every random number of a run, as a function of a key: no global generator, nothing to save, nothing to restore.

Drawn on the CPU, so that a GPU, its driver and the order of work have no part in them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from .objective import Density, chosen_timestep


def generator(*key: int | str) -> torch.Generator:
    """A fresh CPU generator; equal keys give equal streams, on every machine and in every process."""
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


@dataclass(frozen=True)
class Draws:
    """The randomness of one micro-batch of B samples."""

    posterior_noise: Tensor
    """(B, C, h, w): chooses the latents within what the autoencoder allows."""
    noise: Tensor
    """(B, C, h, w): ε."""
    timesteps: Tensor
    """(B,), int64, in 0..T-1: places in the noise schedule."""

    def to(self, device: torch.device) -> Draws:
        return Draws(self.posterior_noise.to(device), self.noise.to(device), self.timesteps.to(device))


def draw(
    seed: int,
    step: int,
    micro_step: int,
    first_index: int,
    batch_size: int,
    shape: tuple[int, ...],
    timesteps: int,
    density: Density = "uniform",
    noise_offset: float = 0.0,
) -> Draws:
    """For samples `first_index ..` of one micro-batch; each is keyed by (seed, step, micro-step, its index).

    shape: of one latent, (C, h, w). timesteps: T, the length of the noise schedule; density: how they are chosen.
    noise_offset: o in ε + o·δ, where δ is one standard normal number for each channel (crosslabs.org, "Diffusion with
    Offset Noise", 2023; 0.1 there).
    """
    posterior, noise, chosen = [], [], []
    for index in range(first_index, first_index + batch_size):
        source = generator("train", seed, step, micro_step, index)
        chosen.append(chosen_timestep(density, timesteps, source))
        noise.append(torch.randn(shape, generator=source))
        posterior.append(torch.randn(shape, generator=source))
        if noise_offset:
            noise[-1] += noise_offset * torch.randn((shape[0], 1, 1), generator=source)
    return Draws(torch.stack(posterior), torch.stack(noise), torch.stack(chosen))


def is_dropped(share: float, seed: int, step: int, micro_step: int, index: int) -> bool:
    """Whether the sample of that key is shown without its caption; true for `share` of all keys."""
    if share == 0.0:
        return False
    return float(torch.rand((), generator=generator("caption", seed, step, micro_step, index))) < share
