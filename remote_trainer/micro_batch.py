"""The loss of one micro-batch: the pictures whose turn it is, noised by keyed draws, and the denoiser's answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import objective
from .dataset.mixture import Mixture, share_of
from .dataset.order import BatchOrder
from .dataset.pictures import framing_rows
from .dataset.views import drawn_view
from .denoising import Denoising
from .draws import Draws, draw, is_dropped
from .encoded import EncodedSet, PromptSource
from .families.api import TextEmbedding
from .wire import DatasetSpec, TrainSpec
from .world import World

_ROUNDS_LOOKED_AT = 4000
"""Micro-batches among which the largest is looked for."""


@dataclass(frozen=True)
class Noised:
    """Samples of one bucket, ready for the denoiser."""

    clean: Tensor
    """(B, C, h, w)"""
    draws: Draws
    text: TextEmbedding
    framing: Tensor
    """(B, 6)"""
    mask: Tensor | None
    """(B, 1, h, w); None when every place counts."""


@dataclass(frozen=True)
class _Pool:
    """Sets of which one gives a micro-batch, or its half."""

    sets: tuple[EncodedSet, ...]
    orders: tuple[BatchOrder, ...]
    mixture: Mixture

    def chosen(self, position: int) -> tuple[EncodedSet, list[int]]:
        """The set whose turn it is, and the indices of its pictures."""
        index, earlier = self.mixture.turn(position)
        return self.sets[index], self.orders[index].batch(earlier)

    @property
    def size(self) -> int:
        return sum(len(each.pictures) for each in self.sets)


class MicroBatches:
    """The endless sequence of micro-batches of a run; every one is a pure function of its number.

    With class images, `paired` joins a batch of the subject's sets and one of the class's (L = mean + λ·mean), and
    `mixed` draws each batch from one set of either role, whose mean counts λ where it is the class's. Either way what
    a class image weighs beside one of the subject is the product of how often it is drawn and λ.
    """

    def __init__(
        self,
        spec: TrainSpec,
        denoising: Denoising,
        sets: Sequence[EncodedSet],
        prompts: PromptSource,
        world: World | None = None,
    ) -> None:
        """With several processes, a batch is that of all of them, and each takes its share: the same pictures, noise
        and timesteps as of one process with so many times the batch."""
        self._spec, self._denoising, self._prompts = spec, denoising, prompts
        self._world = world or World()
        self._together = spec.batch_size * self._world.size
        schedule = denoising.family.schedule
        self._density: objective.Density = "uniform"
        if schedule.prediction == "flow":
            self._density = spec.flow_density
            if spec.flow_shift is not None:
                schedule = objective.flow_schedule(len(schedule), spec.flow_shift)
        self._schedule = schedule.to(denoising.device)
        roles = {each.spec.role for each in sets}
        if spec.prior_sampling == "mixed" or len(roles) == 1:
            self._pools = [_pool(sets, spec, self._together, "mixed" if len(roles) > 1 else "instance")]
        else:
            by_role = ([each for each in sets if each.spec.role == role] for role in ("instance", "class"))
            self._pools = [_pool(each, spec, self._together, each[0].spec.role) for each in by_role]
        self.pictures_each = spec.batch_size * len(self._pools)
        """Of this process."""

    def loss(self, step: int, micro_step: int, part: int = 0, parts: int = 1) -> Tensor:
        """Scalar loss with gradient. step: 1 … steps; micro_step: 0 … gradient_accumulation - 1.

        parts: into how many equal shares the batch is divided, of which `part` is taken; the mean over all of them is
        the loss of the whole batch.
        """
        rows = self._spec.batch_size // parts
        first = self._world.rank * self._spec.batch_size + part * rows
        places = range(first, first + rows)
        position = (step - 1) * self._spec.gradient_accumulation + micro_step
        weight = self._spec.prior_loss_weight
        if len(self._pools) == 1:
            chosen, samples = self._noised(self._pools[0], position, step, micro_step, places, 0)
            mean = objective.batch_loss(self._losses(samples), None, 0.0)
            return mean if chosen.role == "instance" else weight * mean
        (_, instance), (_, class_) = (
            self._noised(pool, position, step, micro_step, places, number * self._together)
            for number, pool in enumerate(self._pools)
        )
        if instance.clean.shape == class_.clean.shape:
            both = self._losses(_joined(instance, class_))
            halves = (both[:rows], both[rows:])
        else:
            halves = (self._losses(instance), self._losses(class_))
        return objective.batch_loss(*halves, weight)

    def largest(self) -> int:
        """The micro-step of step 1 that touches the largest buckets, among the first rounds of pictures."""
        rounds = range(min(4 * sum(pool.size for pool in self._pools), _ROUNDS_LOOKED_AT))

        def latents(position: int) -> int:
            chosen = (pool.chosen(position) for pool in self._pools)
            return sum(math.prod(each.pictures[indices[0]][0].bucket) for each, indices in chosen)

        return max(rounds, key=latents)

    def _noised(
        self, pool: _Pool, position: int, step: int, micro_step: int, places: range, offset: int
    ) -> tuple[DatasetSpec, Noised]:
        """places: of the batch's pictures those that are wanted. offset: added to a place, it is the sample's key."""
        each, indices = pool.chosen(position)
        chosen, first_index = [], places.start + offset
        for place in places:
            views = each.pictures[indices[place]]
            chosen.append(views[drawn_view(len(views), self._spec.seed, step, micro_step, place + offset)])
        drawn = draw(
            self._spec.seed, step, micro_step, first_index, len(chosen), chosen[0].bucket, len(self._schedule),
            self._density, self._spec.noise_offset,
        ).to(self._denoising.device)  # fmt: skip
        mean, std = torch.stack([picture.posterior.moments() for picture in chosen], dim=1)
        clean = objective.latents_from_moments(mean, std, drawn.posterior_noise)
        framing = framing_rows([picture.framing for picture in chosen], self._denoising.device)
        mask = None
        if any(picture.mask is not None for picture in chosen):
            whole = torch.ones((1, *chosen[0].bucket[1:]), device=self._denoising.device)
            mask = torch.stack([whole if picture.mask is None else picture.mask for picture in chosen])
        captions = [
            "" if is_dropped(self._spec.caption_dropout, self._spec.seed, step, micro_step, place) else picture.caption
            for place, picture in enumerate(chosen, first_index)
        ]
        text = self._prompts.batch(captions)
        return each.spec, Noised(clean, drawn, text, framing, mask)

    def _losses(self, batch: Noised) -> Tensor:
        """(B,), weighted by SNR when the job asks for it; class samples are weighted like the others."""
        noise, timesteps, schedule = batch.draws.noise, batch.draws.timesteps, self._schedule
        noisy = objective.add_noise(batch.clean, noise, timesteps, schedule)
        predicted = self._denoising.predict(noisy, schedule.told[timesteps], batch.text, batch.framing)
        wanted = objective.target(batch.clean, noise, timesteps, schedule)
        weights = None
        if self._spec.min_snr_gamma is not None:
            snr = objective.signal_to_noise(timesteps, schedule)
            weights = objective.min_snr_weights(schedule.prediction, snr, self._spec.min_snr_gamma)
        elif self._spec.debiased_estimation:
            weights = objective.debiased_weights(schedule.prediction, objective.signal_to_noise(timesteps, schedule))
        return objective.sample_losses(predicted, wanted, weights, batch.mask)


def _pool(sets: Sequence[EncodedSet], spec: TrainSpec, batch_size: int, label: str) -> _Pool:
    orders = tuple(
        BatchOrder([views[0].bucket for views in each.pictures], batch_size, spec.seed, each.spec.id) for each in sets
    )
    shares = [share_of(each.spec, len(each.pictures), batch_size) for each in sets]
    return _Pool(tuple(sets), orders, Mixture(shares, spec.seed, label))


def _joined(first: Noised, second: Noised) -> Noised:
    a, b = first.draws, second.draws
    draws = Draws(
        torch.cat([a.posterior_noise, b.posterior_noise]),
        torch.cat([a.noise, b.noise]),
        torch.cat([a.timesteps, b.timesteps]),
    )
    text = TextEmbedding.cat([first.text, second.text])
    framing = torch.cat([first.framing, second.framing])
    mask = None
    if first.mask is not None or second.mask is not None:
        mask = torch.cat([_mask_of(first), _mask_of(second)])
    return Noised(torch.cat([first.clean, second.clean]), draws, text, framing, mask)


def _mask_of(batch: Noised) -> Tensor:
    return torch.ones_like(batch.clean[:, :1]) if batch.mask is None else batch.mask
