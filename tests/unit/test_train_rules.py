"""Settings of `[train]` that cannot stand together are refused on the laptop, with what to give instead."""

from __future__ import annotations

import pytest

from orchestrator.train_rules import settings_that_disagree
from remote_trainer.wire import TrainSpec


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"debiased_estimation": True, "min_snr_gamma": 5.0}, "train.debiased_estimation=false"),
        ({"optimizer": "adamw-bf16", "precision": "fp32"}, "train.precision=auto"),
        ({"lr_schedule": "sine", "steps": 800}, "train.lr_warmup_steps=80"),
        ({"lr_power": 2.0}, "train.lr_schedule=polynomial"),
        ({"lr_schedule": "cosine", "lr_power": 2.0}, "train.lr_schedule=polynomial"),
        ({"fsdp": True, "base_precision": "nf4"}, "train.fsdp=false"),
        ({"fsdp": True, "method": "full", "optimizer": "adamw-8bit"}, "train.optimizer=adamw"),
        ({"fsdp": True, "method": "full", "ema_decay": 0.9}, "train.fsdp=false"),
        ({"fsdp": True, "method": "full", "text_encoder_learning_rate": 1e-6}, "train.fsdp=false"),
    ],
)
def test_it_is_refused_with_a_hint(settings, hint):
    [disagreement] = settings_that_disagree(TrainSpec(**settings))
    assert hint in disagreement.fix


def test_every_disagreement_is_told():
    both = TrainSpec(debiased_estimation=True, min_snr_gamma=5.0, optimizer="adamw-bf16", precision="fp32")
    assert len(list(settings_that_disagree(both))) == 2


def test_what_agrees_passes():
    assert not list(settings_that_disagree(TrainSpec()))
    assert not list(settings_that_disagree(TrainSpec(optimizer="adamw-bf16", min_snr_gamma=5.0)))
    assert not list(settings_that_disagree(TrainSpec(method="full", fsdp=True)))
