"""SimpleTuner's env file (`sdxl-env.sh`) as keys of `[train]` and `[model]`. Nothing in it is ever executed.

Pure but for `read_env`. A line is an assignment or it is ignored; a value may name earlier ones (`${BASE_DIR}/x`) and
have one whole-number operation (`$((MAX_NUM_STEPS / 10))`), as the file that people copy has them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.dataset.translation import Translation, shown
from orchestrator.errors import UsageError

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)=(.*)")
_REFERENCE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_ARITHMETIC = re.compile(r"\$\(\(\s*\$?\{?(\w+)\}?\s*([-+*/])\s*\$?\{?(\w+)\}?\s*\)\)")


@dataclass(frozen=True)
class EnvFile:
    values: Mapping[str, str]
    others: tuple[str, ...]
    """Lines that are no assignment, or whose value only a shell could tell."""


def read_env(path: Path) -> EnvFile:
    """Raises UsageError for a file that cannot be read."""
    try:
        return parse_env(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(f"there is no env file {path}", "check data.env") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def parse_env(text: str) -> EnvFile:
    """The last assignment of a name counts."""
    values: dict[str, str] = {}
    others = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _ASSIGNMENT.fullmatch(line)
        value = None if found is None else _value(found[2], values)
        if found is None or value is None:
            others.append(line.strip())
        else:
            values[found[1]] = value
    return EnvFile(values, tuple(others))


def _value(text: str, known: Mapping[str, str]) -> str | None:
    """The first word of what stands behind `=`, references replaced; None for what only a shell could tell."""
    literal = text.lstrip().startswith("'")
    if not literal:
        text = _ARITHMETIC.sub(lambda found: _computed(found, known), text)
        if "$(" in text or "`" in text:
            return None
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        return None
    value = words[0] if words else ""
    return value if literal else _REFERENCE.sub(lambda found: known.get(found[1] or found[2], ""), value)


def _computed(found: re.Match[str], known: Mapping[str, str]) -> str:
    left, right = (known.get(found[side], found[side]) for side in (1, 3))
    if not (re.fullmatch(r"\d+", left) and re.fullmatch(r"\d+", right)) or (found[2] == "/" and int(right) == 0):
        return found[0]
    one, other = int(left), int(right)
    return str({"+": one + other, "-": one - other, "*": one * other, "/": one // max(other, 1)}[found[2]])


# ---- what the names mean -------------------------------------------------------------------------------------------


def _whole(text: str) -> int:
    return int(float(text))


_NUMBERS: dict[str, tuple[str, Callable[[str], float]]] = {
    "TRAIN_BATCH_SIZE": ("batch_size", _whole),
    "GRADIENT_ACCUMULATION_STEPS": ("gradient_accumulation", _whole),
    "LEARNING_RATE": ("learning_rate", float),
    "LR_WARMUP_STEPS": ("lr_warmup_steps", _whole),
    "MAX_NUM_STEPS": ("steps", _whole),
    "VALIDATION_STEPS": ("validate_every", _whole),
    "VALIDATION_NUM_INFERENCE_STEPS": ("validation_inference_steps", _whole),
    "VALIDATION_GUIDANCE": ("validation_guidance_scale", float),
    "CHECKPOINTING_STEPS": ("checkpoint_every", _whole),
    "CHECKPOINTING_LIMIT": ("keep_checkpoints", _whole),
    "MIN_SNR_GAMMA": ("min_snr_gamma", float),
    "TRAINING_SEED": ("seed", _whole),
    "LORA_RANK": ("lora_rank", _whole),
    "LORA_ALPHA": ("lora_alpha", float),
    "CAPTION_DROPOUT_PROBABILITY": ("caption_dropout", float),
    "NOISE_OFFSET": ("noise_offset", float),
}
_EXTRA_ARGUMENTS = {
    "--snr_gamma": "MIN_SNR_GAMMA",
    "--lora_rank": "LORA_RANK",
    "--lora_alpha": "LORA_ALPHA",
    "--model_type": "MODEL_TYPE",
    "--gradient_accumulation_steps": "GRADIENT_ACCUMULATION_STEPS",
    "--noise_offset": "NOISE_OFFSET",
    "--ema_decay": "EMA_DECAY",
    "--optimizer": "OPTIMIZER",
    "--learning_rate_end": "LEARNING_RATE_END",
    "--max_train_steps": "MAX_NUM_STEPS",
}
"""Of TRAINER_EXTRA_ARGS: what has a name of its own, too."""
_SCHEDULES = {
    "constant": ("constant", ""),
    "constant_with_warmup": ("constant", "LR_WARMUP_STEPS is the warm-up"),
    "linear": ("linear", ""),
    "polynomial": ("polynomial", ""),
    "cosine": ("cosine", ""),
    "sine": ("sine", ""),
}
_IGNORED = {
    "NUM_EPOCHS": "MAX_NUM_STEPS says how long; the plan shows what that is in epochs",
    "OUTPUT_DIR": "output.folder says where the model goes",
    "RESUME_CHECKPOINT": "a run goes on from its newest checkpoint by itself",
    "TRACKER_PROJECT_NAME": "`cloudbooth report` shows a run",
    "TRACKER_RUN_NAME": "the name of the spec names the run",
    "VALIDATION_SEED": "pictures follow from train.seed",
    "INSTANCE_DIR": "the dataloader file names the folders",
    "TRAINING_NUM_PROCESSES": "the machine that is rented decides it",
    "TRAINING_NUM_MACHINES": "the machine that is rented decides it",
    "ALLOW_TF32": "kernels are chosen to give the same bits again",
    "USE_GRADIENT_CHECKPOINTING": "a trial step on the machine decides it",
    "USE_XFORMERS": "torch's own attention is as fast",
}
_CHANGES_THE_MODEL = {
    "VALIDATION_NEGATIVE_PROMPT", "INSTANCE_PROMPT", "CONTROLNET", "TEXT_ENCODER_LIMIT",
}  # fmt: skip
_OPTIMIZERS = {
    "adamw": "adamw",
    "adamw-bf16": "adamw-bf16",
    "adam-bf16": "adamw-bf16",
    "adamw-8bit": "adamw-8bit",
    "adamw8bit": "adamw-8bit",
    "adam8bit": "adamw-8bit",
    "adafactor": "adafactor",
}
_UPSTREAM_EMA_DECAY = 0.995
"""Where the file asks for a moving average and does not say how long it remembers."""
_GO_WITH_OTHERS = {
    "RESOLUTION": "of datasets that say nothing themselves",
    "RESOLUTION_TYPE": "of datasets that say nothing themselves",
    "USE_DORA": "goes with MODEL_TYPE",
    "EMA_DECAY": "goes with USE_EMA",
}
_UPSTREAM_DEFAULTS = (
    ("MODEL_TYPE", "method", "lora"), ("LR_SCHEDULE", "lr_schedule", "sine"),
    ("LR_WARMUP_STEPS", "lr_warmup_steps", 1000), ("MIN_SNR_GAMMA", "min_snr_gamma", 5),
    ("GRADIENT_ACCUMULATION_STEPS", "gradient_accumulation", 4), ("CHECKPOINTING_STEPS", "checkpoint_every", 150),
    ("CHECKPOINTING_LIMIT", "keep_checkpoints", 2), ("CAPTION_DROPOUT_PROBABILITY", "caption_dropout", 0.1),
    ("VALIDATION_NUM_INFERENCE_STEPS", "validation_inference_steps", 30),
)  # fmt: skip
"""Name, our key, and what SimpleTuner's example file would have added: those people inherit without writing them."""


def translate_env(env: EnvFile, path: Path) -> Translation:
    """`path` names the file in rows and errors; relative paths begin at its folder. Raises UsageError for a value
    that is no number where one is needed, and for epochs without steps.
    """
    result = Translation()
    values = dict(env.values)
    for name, value in _extra_arguments(values, path.name, result):
        values.setdefault(name, value)
    for name, value in values.items():
        _translate(name, value, values, path, result)
    for line in env.others:
        result.ignore(path.name, line[:40], "", "no assignment, and nothing in the file is executed")
    if "steps" not in result.train and "NUM_EPOCHS" in values:
        result.ignore(path.name, "NUM_EPOCHS", values["NUM_EPOCHS"], "say how many steps: `--steps`", warned=True)
    left = [(name, key, theirs) for name, key, theirs in _UPSTREAM_DEFAULTS if name not in values]
    if left:
        said = ", ".join(f"{name} {theirs}" for name, _, theirs in left)
        why = f"this program's defaults apply; SimpleTuner's example file would say {said}"
        result.say(path.name, "not in the file", "", ", ".join(f"train.{key}" for _, key, _ in left), why)
    return result


def _extra_arguments(values: dict[str, str], where: str, result: Translation) -> Iterator[tuple[str, str]]:
    words = shlex.split(values.pop("TRAINER_EXTRA_ARGS", ""))
    while words:
        name, equals, value = words.pop(0).partition("=")
        if not equals and words and not words[0].startswith("--"):
            value = words.pop(0)
        if name in _EXTRA_ARGUMENTS:
            yield _EXTRA_ARGUMENTS[name], value
        else:
            result.ignore(where, f"TRAINER_EXTRA_ARGS {name}", value, "not taken over", warned=True)


def _translate(name: str, value: str, values: Mapping[str, str], path: Path, result: Translation) -> None:
    where, train = path.name, result.train
    if name in _NUMBERS:
        key, number = _NUMBERS[name]
        try:
            amount = number(value)
        except ValueError:
            raise UsageError(f"{path}: {name} is {shown(value)}, not a number") from None
        if key == "caption_dropout" and amount > 1:
            raise UsageError(f"{path}: {name} is {shown(value)}, not a share from 0 to 1")
        if name == "MAX_NUM_STEPS" and amount <= 0:
            result.ignore(where, name, value, "NUM_EPOCHS counts then")
        elif name == "MIN_SNR_GAMMA" and amount <= 0:
            result.ignore(where, name, value, "0 means none")
        else:
            train[key] = amount
            exact = "exactly; epochs never end a run" if name == "MAX_NUM_STEPS" else ""
            result.say(where, name, value, f"train.{key} = {amount:g}", exact)
    elif name == "LEARNING_RATE_END":
        train["lr_end"] = float(value)
        result.say(where, name, value, f"train.lr_end = {float(value):g}", "the rate of the last step")
        if "LR_SCHEDULE" not in values:
            train["lr_schedule"] = "cosine"
            result.say(where, "LR_SCHEDULE", "", 'train.lr_schedule = "cosine"', "a rate with an end has to fall to it")
    elif name == "LR_SCHEDULE":
        if value not in _SCHEDULES:
            raise UsageError(f"{path}: LR_SCHEDULE is {shown(value)}", f"known are {', '.join(_SCHEDULES)}")
        train["lr_schedule"], why = _SCHEDULES[value]
        if value == "sine" and values.get("LR_WARMUP_STEPS", "0") in ("", "0"):
            train["lr_schedule"], why = "cosine", "half a wave of a sine lasts LR_WARMUP_STEPS, which are not given"
        result.say(where, name, value, f'train.lr_schedule = "{train["lr_schedule"]}"', why)
    elif name == "MODEL_TYPE":
        method = "dora" if value == "lora" and values.get("USE_DORA", "").lower() == "true" else value
        if method not in ("lora", "dora", "full"):
            raise UsageError(f"{path}: MODEL_TYPE is {shown(value)}", "known are lora and full")
        train["method"] = method
        result.say(where, name, value, f'train.method = "{method}"')
    elif name == "VALIDATION_PROMPT":
        train["validation_prompts"] = [value]
        result.say(where, name, value, f"train.validation_prompts = [{shown(value)}]")
    elif name == "MODEL_NAME":
        result.model["base"] = value
        result.say(where, name, value, f"model.base = {shown(value)}")
    elif name == "DATALOADER_CONFIG":
        result.data["dataloader"] = str(path.parent / Path(value).expanduser())
        result.say(where, name, value, f"data.dataloader = {result.data['dataloader']}")
    elif name == "MIXED_PRECISION" and value in ("bf16", "no"):
        train["precision"] = {"bf16": "auto", "no": "fp32"}[value]
        result.say(where, name, value, f'train.precision = "{train["precision"]}"', "bf16 where the GPU has it")
    elif name == "OPTIMIZER" and value.replace("_", "-") in _OPTIMIZERS:
        train["optimizer"] = _OPTIMIZERS[value.replace("_", "-")]
        result.say(where, name, value, f'train.optimizer = "{train["optimizer"]}"')
    elif name == "USE_EMA":
        if value.lower() == "true":
            train["ema_decay"] = float(values.get("EMA_DECAY") or _UPSTREAM_EMA_DECAY)
        kept = f"train.ema_decay = {train['ema_decay']:g}" if "ema_decay" in train else "no moving average"
        result.say(where, name, value, kept)
    elif name in _GO_WITH_OTHERS:
        result.say(where, name, value, _GO_WITH_OTHERS[name])
    else:
        why = _IGNORED.get(name, "this program has no such setting")
        result.ignore(where, name, value, why, warned=name in _CHANGES_THE_MODEL or name == "OPTIMIZER")


def default_size(env: EnvFile) -> tuple[float, str] | None:
    """Resolution and its type, for datasets that have none."""
    try:
        return float(env.values["RESOLUTION"]), env.values.get("RESOLUTION_TYPE", "pixel")
    except (KeyError, ValueError):
        return None
