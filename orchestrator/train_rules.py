"""Which settings of `[train]` cannot stand together, found before anything is rented."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.spec_errors import RuleBroken
from remote_trainer.wire import TrainSpec


def settings_that_disagree(train: TrainSpec) -> Iterator[RuleBroken]:
    """Every rule that is broken, as fact and hint."""
    if train.debiased_estimation and train.min_snr_gamma is not None:
        yield RuleBroken(
            "train.min_snr_gamma and train.debiased_estimation both weight the loss by SNR, and only one can",
            "--set train.debiased_estimation=false",
        )
    if train.optimizer == "adamw-bf16" and train.precision == "fp32":
        yield RuleBroken(
            'train.optimizer = "adamw-bf16" keeps weights in bfloat16, which train.precision = "fp32" forbids',
            "--set train.precision=auto",
        )
    if train.method == "full" and (train.lora_targets or train.base_precision not in ("auto", "fp32")):
        key = "lora_targets" if train.lora_targets else "base_precision"
        yield RuleBroken(
            f'train.{key} is about adapters, and train.method = "full" trains every weight', "--set train.method=lora"
        )
    if train.text_encoder_learning_rate is not None and train.method == "dora":
        yield RuleBroken(
            'train.text_encoder_learning_rate does not go with train.method = "dora": nothing opens a DoRA of a text '
            "encoder",
            "--set train.method=lora",
        )
    if train.fsdp and (broken := _without_shards(train)) is not None:
        setting, fix = broken
        yield RuleBroken(f"train.fsdp does not go with {setting}", fix)
    if train.lr_schedule == "sine" and train.lr_warmup_steps == 0:
        yield RuleBroken(
            'train.lr_schedule = "sine" needs train.lr_warmup_steps: half a wave lasts so many steps',
            f"--set train.lr_warmup_steps={max(1, train.steps // 10)}",
        )
    if train.lr_schedule != "polynomial" and train.lr_power != 1.0:
        yield RuleBroken(
            f'train.lr_power has no effect on train.lr_schedule = "{train.lr_schedule}"',
            "--set train.lr_schedule=polynomial",
        )


def _without_shards(train: TrainSpec) -> tuple[str, str] | None:
    """What keeps a denoiser from being trained in shards, and the flag that mends it."""
    if train.method != "full":
        what = "an adapter is small, and its base, which may be kept in 4 or 8 bits, is not sharded"
        return f'train.method = "{train.method}": {what}', "--set train.fsdp=false"
    if train.optimizer != "adamw":
        return f'train.optimizer = "{train.optimizer}", whose state is not sharded', "--set train.optimizer=adamw"
    if train.ema_decay is not None:
        return "train.ema_decay: the average would be a whole copy on every GPU", "--set train.fsdp=false"
    if train.text_encoder_learning_rate is not None:
        return "train.text_encoder_learning_rate: text encoders are not sharded", "--set train.fsdp=false"
    return None
