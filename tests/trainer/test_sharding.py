"""What goes with a denoiser in shards; that it trains the same is shown in test_torchrun.py."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.train_rules import settings_that_disagree
from remote_trainer.errors import TrainingFailed
from remote_trainer.sharding import is_sharded
from remote_trainer.wire import TrainSpec
from remote_trainer.world import World

TWO = World(size=2)


@pytest.mark.parametrize(
    "settings",
    [{"ema_decay": 0.9}, {"optimizer": "adafactor"}, {"method": "lora"}, {"text_encoder_learning_rate": 1e-6}],
)
def test_what_the_plan_refuses_the_trainer_does_too(settings: dict[str, Any]) -> None:
    spec = TrainSpec(**{"method": "full", "fsdp": True, **settings})
    assert list(settings_that_disagree(spec))
    with pytest.raises(TrainingFailed, match=r"does not go with train\.fsdp"):
        is_sharded(spec, TWO)


def test_a_process_that_is_alone_has_the_whole() -> None:
    full = TrainSpec(method="full", fsdp=True)
    assert not list(settings_that_disagree(full))
    assert (is_sharded(full, TWO), is_sharded(full, World())) == (True, False)
