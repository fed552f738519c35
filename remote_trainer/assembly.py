"""What the training loop works with: the denoiser, what of it trains, and who moves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from . import adapters
from .adapters import Trained
from .denoising import Denoising
from .descent import Descent
from .ema import Ema
from .encoded import EncodedSet, PromptSource
from .families.api import Family
from .micro_batch import MicroBatches
from .optimizers import build_optimizer, groups
from .sharding import is_sharded, shard
from .wire import TrainSpec, Weights
from .world import World


@dataclass(frozen=True)
class Assembly:
    denoising: Denoising
    trained: Trained
    parameters: Mapping[str, nn.Parameter]
    """As of `Trained`; shards where `train.fsdp` asks for them."""
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    batches: MicroBatches
    descent: Descent


def assemble(
    spec: TrainSpec,
    family: Family,
    weights: Weights,
    precision: str,
    device: torch.device,
    sets: Sequence[EncodedSet],
    prompts: PromptSource,
    texts: Mapping[str, nn.Module],
    world: World,
) -> Assembly:
    """Loads the denoiser anew. texts: encoders that train, by component."""
    sharded = is_sharded(spec, world)
    loaded_on = torch.device("cpu") if sharded else device
    denoising = Denoising(family, family.load_denoiser(loaded_on, weights), device, precision)
    trained = Trained(denoising.model, texts)
    adapters.make_trainable(spec, family, trained)
    if sharded:
        shard(denoising.model, device, world)
    parameters = trained.parameters()
    optimizer = build_optimizer(groups(parameters, texts, spec), spec)
    ema = None if spec.ema_decay is None else Ema(parameters, spec.ema_decay)
    batches = MicroBatches(spec, denoising, sets, prompts, world)
    descent = Descent(spec, denoising, batches, parameters, optimizer, ema, world)
    return Assembly(denoising, trained, parameters, optimizer, ema, batches, descent)
