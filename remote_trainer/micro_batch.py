"""The loss of one micro-batch: the pictures whose turn it is, noised by keyed draws, and the denoiser's answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import objective
from .dataset.order import BatchOrder
from .dataset.pictures import framing_rows
from .denoising import Denoising
from .draws import Draws, draw
from .encoded import EncodedPicture, Prompts
from .families.api import TextEmbedding
from .wire import TrainSpec


@dataclass(frozen=True)
class Noised:
    """Samples of one bucket, ready for the denoiser."""

    clean: Tensor
    """(B, C, h, w)"""
    draws: Draws
    text: TextEmbedding
    framing: Tensor
    """(B, 6)"""


class MicroBatches:
    """The endless sequence of micro-batches of a run; every one is a pure function of its number."""

    def __init__(
        self,
        spec: TrainSpec,
        denoising: Denoising,
        instance: Sequence[EncodedPicture],
        class_: Sequence[EncodedPicture],
        prompts: Prompts,
    ) -> None:
        self._spec, self._denoising, self._prompts = spec, denoising, prompts
        schedule = denoising.family.schedule
        self._density: objective.Density = "uniform"
        if schedule.prediction == "flow":
            self._density = spec.flow_density
            if spec.flow_shift is not None:
                schedule = objective.flow_schedule(len(schedule), spec.flow_shift)
        self._schedule = schedule.to(denoising.device)
        self._instance = (instance, _order(instance, spec, "instance"))
        self._class = (class_, _order(class_, spec, "class")) if class_ else None
        self.pictures_each = spec.batch_size * (2 if class_ else 1)

    def loss(self, step: int, micro_step: int) -> Tensor:
        """Scalar loss with gradient. step: 1 … steps; micro_step: 0 … gradient_accumulation - 1."""
        position = (step - 1) * self._spec.gradient_accumulation + micro_step
        instance = self._noised(*self._instance, position, step, micro_step, first_index=0)
        if self._class is None:
            return objective.batch_loss(self._losses(instance), None, 0.0)
        class_ = self._noised(*self._class, position, step, micro_step, first_index=self._spec.batch_size)
        if instance.clean.shape == class_.clean.shape:
            both = self._losses(_joined(instance, class_))
            parts = (both[: self._spec.batch_size], both[self._spec.batch_size :])
        else:
            parts = (self._losses(instance), self._losses(class_))
        return objective.batch_loss(parts[0], parts[1], self._spec.prior_loss_weight)

    def largest(self) -> int:
        """The micro-step of step 1 that touches the largest bucket, among the first rounds of pictures."""
        pictures, order = self._instance
        rounds = range(4 * len(pictures))
        return max(rounds, key=lambda position: pictures[order.batch(position)[0]].mean.numel())

    def _noised(
        self,
        pictures: Sequence[EncodedPicture],
        order: BatchOrder,
        position: int,
        step: int,
        micro_step: int,
        *,
        first_index: int,
    ) -> Noised:
        chosen = [pictures[index] for index in order.batch(position)]
        drawn = draw(
            self._spec.seed, step, micro_step, first_index, len(chosen), chosen[0].bucket, len(self._schedule),
            self._density,
        ).to(self._denoising.device)  # fmt: skip
        mean = torch.stack([picture.mean for picture in chosen])
        std = torch.stack([picture.std for picture in chosen])
        clean = objective.latents_from_moments(mean, std, drawn.posterior_noise)
        framing = framing_rows([picture.framing for picture in chosen], self._denoising.device)
        return Noised(clean, drawn, self._prompts.batch([picture.caption for picture in chosen]), framing)

    def _losses(self, batch: Noised) -> Tensor:
        """(B,), weighted by min-SNR when the job asks for it; class samples are weighted like the others."""
        noise, timesteps, schedule = batch.draws.noise, batch.draws.timesteps, self._schedule
        noisy = objective.add_noise(batch.clean, noise, timesteps, schedule)
        predicted = self._denoising.predict(noisy, schedule.told[timesteps], batch.text, batch.framing)
        wanted = objective.target(batch.clean, noise, timesteps, schedule)
        weights = None
        if self._spec.min_snr_gamma is not None:
            snr = objective.signal_to_noise(timesteps, schedule)
            weights = objective.min_snr_weights(schedule.prediction, snr, self._spec.min_snr_gamma)
        return objective.sample_losses(predicted, wanted, weights)


def _order(pictures: Sequence[EncodedPicture], spec: TrainSpec, label: str) -> BatchOrder:
    return BatchOrder([picture.bucket for picture in pictures], spec.batch_size, spec.seed, label)


def _joined(first: Noised, second: Noised) -> Noised:
    a, b = first.draws, second.draws
    draws = Draws(
        torch.cat([a.posterior_noise, b.posterior_noise]),
        torch.cat([a.noise, b.noise]),
        torch.cat([a.timesteps, b.timesteps]),
    )
    text = TextEmbedding.cat([first.text, second.text])
    return Noised(torch.cat([first.clean, second.clean]), draws, text, torch.cat([first.framing, second.framing]))
