"""SimpleTuner's env file: read as assignments, never executed."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.dataset.simpletuner_env import default_size, parse_env, translate_env
from orchestrator.dataset.translation import Translation
from orchestrator.errors import UsageError


def translated(text: str) -> Translation:
    return translate_env(parse_env(text), Path("/cfg/sdxl-env.sh"))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=1", "1"), ("export A=1", "1"), ("  A='x y' # comment", "x y"), ('A="x y"', "x y"), ("A=", ""),
        ("A=x;B=y", "x;B=y"), ("export A=8e-7 #@param {type:\"number\"}", "8e-7"), ("A='$B'", "$B"),
    ],
)  # fmt: skip
def test_assignments_are_read_as_a_shell_reads_them(line: str, value: str) -> None:
    assert parse_env(line).values == {"A": value}


def test_earlier_names_are_put_in() -> None:
    env = parse_env('BASE="/data"\nexport A="${BASE}/x"\nB=$BASE/y\nC="${NOBODY}z"')
    assert (env.values["A"], env.values["B"], env.values["C"]) == ("/data/x", "/data/y", "z")


def test_one_whole_number_operation_is_computed() -> None:
    assert parse_env("N=3000\nexport W=$((N / 10))").values["W"] == "300"


def test_nothing_is_executed(tmp_path: Path) -> None:
    trap = tmp_path / "made"
    env = parse_env(f"A=$(touch {trap})\nB=`touch {trap}`\ntouch {trap}\nif true; then\nC=$((1 + $(touch {trap})))\n")
    assert not trap.exists()
    assert env.values == {}
    assert len(env.others) == 5


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("MAX_NUM_STEPS=1000", "steps", 1000), ("TRAIN_BATCH_SIZE=2", "batch_size", 2),
        ("GRADIENT_ACCUMULATION_STEPS=4", "gradient_accumulation", 4), ("LEARNING_RATE=4e-6", "learning_rate", 4e-6),
        ("LR_SCHEDULE=sine", "lr_schedule", "cosine"), ("LR_SCHEDULE=polynomial", "lr_schedule", "polynomial"),
        ("LR_SCHEDULE=sine\nLR_WARMUP_STEPS=50", "lr_schedule", "sine"),
        ("CAPTION_DROPOUT_PROBABILITY=0.1", "caption_dropout", 0.1), ("USE_EMA=true", "ema_decay", 0.995),
        ("USE_EMA=true\nEMA_DECAY=0.99", "ema_decay", 0.99),
        ("CHECKPOINTING_STEPS=150", "checkpoint_every", 150), ("CHECKPOINTING_LIMIT=3", "keep_checkpoints", 3),
        ("MODEL_TYPE=full", "method", "full"), ("MODEL_TYPE=lora\nUSE_DORA=true", "method", "dora"),
        ("MIXED_PRECISION=no", "precision", "fp32"), ("TRAINING_SEED=7", "seed", 7),
        ('TRAINER_EXTRA_ARGS="--snr_gamma=5.0 --use_ema"', "min_snr_gamma", 5.0),
    ],
)  # fmt: skip
def test_names_become_keys_of_train(line: str, key: str, value: object) -> None:
    assert translated(line).train[key] == value


def test_a_rate_with_an_end_falls_to_it() -> None:
    assert translated("LEARNING_RATE_END=4e-7").train == {"lr_end": 4e-7, "lr_schedule": "cosine"}
    assert translated("LEARNING_RATE_END=4e-7\nLR_SCHEDULE=linear").train["lr_schedule"] == "linear"


def test_steps_win_over_epochs() -> None:
    result = translated("MAX_NUM_STEPS=1000\nNUM_EPOCHS=25")
    assert result.train["steps"] == 1000
    assert not any(row.is_warned for row in result.rows)


def test_epochs_without_steps_are_warned_of() -> None:
    (row,) = (row for row in translated("MAX_NUM_STEPS=0\nNUM_EPOCHS=25").rows if row.is_warned)
    assert (row.key, row.why) == ("NUM_EPOCHS", "say how many steps: `--steps`")


@pytest.mark.parametrize("name", ["adamw-bf16", "adamw_bf16"])
def test_spellings_of_one_optimizer_mean_the_same(name: str) -> None:
    assert translated(f"OPTIMIZER={name}").train == {"optimizer": "adamw-bf16"}


@pytest.mark.parametrize("line", ["VALIDATION_NEGATIVE_PROMPT=blurry", "CONTROLNET=true", "OPTIMIZER=lion"])
def test_what_would_change_the_model_and_does_not_is_warned_of(line: str) -> None:
    assert [row.is_warned for row in translated(line).rows if row.key == line.partition("=")[0]] == [True]


def test_upstream_defaults_that_do_not_apply_are_named() -> None:
    (row,) = (row for row in translated("LR_SCHEDULE=constant").rows if row.key == "not in the file")
    assert "GRADIENT_ACCUMULATION_STEPS 4" in row.why
    assert "LR_SCHEDULE" not in row.why


@pytest.mark.parametrize(
    "line", ["MAX_NUM_STEPS=many", "LR_SCHEDULE=wavy", "MODEL_TYPE=lycoris", "CAPTION_DROPOUT_PROBABILITY=7"]
)
def test_values_that_mean_nothing_are_refused(line: str) -> None:
    with pytest.raises(UsageError, match=line.partition("=")[0]):
        translated(line)


def test_a_base_size_is_for_datasets_that_have_none() -> None:
    assert default_size(parse_env("RESOLUTION=1\nRESOLUTION_TYPE=area")) == (1.0, "area")
    assert default_size(parse_env("RESOLUTION=1024")) == (1024.0, "pixel")
    assert default_size(parse_env("A=1")) is None
