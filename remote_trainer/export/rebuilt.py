"""A finished run's models anew, from base and checkpoint: for an export that cannot use those of the training."""

from __future__ import annotations

from pathlib import Path

import torch

from .. import adapters, checkpoint
from ..adapters import Trained
from ..families.api import Family
from ..wire import TrainSpec, Weights


def rebuilt(spec: TrainSpec, family: Family, weights: Weights, run_folder: Path, step: int) -> Trained:
    """In the host's memory, ready for `write_output`: its bits are those of the models that were trained.

    weights: of the denoiser, as in training. step: whose checkpoint. Raises ValueError when there is none.
    """
    host = torch.device("cpu")
    denoiser = family.load_denoiser(host, weights)
    texts = {} if spec.text_encoder_learning_rate is None else family.load_text_encoder(host).models
    trained = Trained(denoiser, texts)
    adapters.make_trainable(spec, family, trained)
    if spec.optimizer == "adamw-bf16":
        for model in (denoiser, *texts.values()):
            model.float()
    found = checkpoint.of_step(run_folder, step)
    if found is None:
        raise ValueError(f"{run_folder.name} has no checkpoint of step {step} to export")
    found.restore_result(trained.parameters())
    return trained
