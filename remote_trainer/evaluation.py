"""One number that can be compared between steps: the loss over a fixed set of (picture, noise, timestep).

A training step's own loss varies by an order of magnitude with the timestep it happened to draw; a falling last loss
therefore proves nothing. Here pictures, noises and timesteps are the same at every step of every run with one seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from . import objective
from .dataset.pictures import framing_rows
from .denoising import Denoising
from .draws import generator
from .encoded import EncodedPicture, PromptSource
from .wire import Evaluated

TIMESTEPS_EACH = 4
"""Spread evenly over the schedule: the middles of as many equal intervals."""
MAX_PICTURES = 16


@torch.no_grad()
def evaluate(
    denoising: Denoising,
    pictures: Sequence[EncodedPicture],
    prompts: PromptSource,
    seed: int,
    step: int,
    *,
    one_by_one: bool = False,
) -> Evaluated:
    """Mean unweighted loss over the first MAX_PICTURES pictures of the subject. Leaves no trace in training.

    one_by_one: takes the memory of a single sample, and more time.
    """
    schedule = denoising.family.schedule.to(denoising.device)
    middles = [int((k + 0.5) / TIMESTEPS_EACH * len(schedule)) for k in range(TIMESTEPS_EACH)]
    timesteps = torch.tensor(middles, device=denoising.device)
    losses = []
    for index, picture in enumerate(pictures[:MAX_PICTURES]):
        source = generator("evaluation", seed, index)
        noise = torch.randn((TIMESTEPS_EACH, *picture.bucket), generator=source).to(denoising.device)
        clean = picture.posterior.moments()[0].expand_as(noise)
        noisy = objective.add_noise(clean, noise, timesteps, schedule)
        text = prompts.batch([picture.caption] * TIMESTEPS_EACH)
        framing = framing_rows([picture.framing] * TIMESTEPS_EACH, denoising.device)
        told, rows = schedule.told[timesteps], range(TIMESTEPS_EACH)
        if one_by_one:
            single = [
                denoising.predict(noisy[k : k + 1], told[k : k + 1], text.row(k), framing[k : k + 1]) for k in rows
            ]
            predicted = torch.cat(single)
        else:
            predicted = denoising.predict(noisy, told, text, framing)
        wanted = objective.target(clean, noise, timesteps, schedule)
        mask = None if picture.mask is None else picture.mask.expand(TIMESTEPS_EACH, -1, -1, -1)
        losses.append(objective.sample_losses(predicted, wanted, None, mask))
    return Evaluated(step, float(torch.cat(losses).mean()))
