"""A complete folder for cog, the way by which any model gets to Replicate: written here, built where Docker is.

NAME-cog/cog.yaml      what the image is made of; the base is downloaded while it is built
         predict.py    the predictor, the same for every model
         model.json    which model it is
         weights/      the LoRA, or a whole diffusers folder
         README.md     the model's card
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.finished_model import FinishedModel

TORCH = "torch==2.9.1"
"""cog derives CUDA from it by a table of its own, which lags behind the newest."""
LOCKED = (
    "accelerate",
    "diffusers",
    "huggingface-hub",
    "peft",
    "protobuf",
    "safetensors",
    "sentencepiece",
    "transformers",
)
"""At the versions that models are trained and verified with."""
PYTHON = "3.12"
DEFAULT_SIDE = 512
MAX_GUIDANCE = 20.0
"""As predict.py takes it."""
_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")


def write_cog_folder(model: FinishedModel, name: str, target: Path) -> None:
    """Writes `target`, which must not exist. `name` is `owner/name` at Replicate, empty while that is open.

    Raises UsageError for a place where nothing can be written, and for a model that cannot be served alone: a LoRA
    whose base is on no hub.
    """
    if target.exists():
        raise UsageError(f"{target} exists already", "choose another place: --to FOLDER")
    described = describe(model)
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise UsageError(
            f"{target} cannot be written: {(error.strerror or str(error)).lower()}", "choose another place: --to FOLDER"
        ) from None
    source = model.folder / str(described["weights"]).removeprefix("weights/")
    if source.is_dir():
        shutil.copytree(source, part / str(described["weights"]))
    else:
        (part / "weights").mkdir()
        shutil.copyfile(source, part / str(described["weights"]))
    predictor = resources.files("orchestrator.publishing") / "cog" / "predict.py"
    (part / "predict.py").write_bytes(predictor.read_bytes())
    (part / "model.json").write_text(json.dumps(described, indent=1) + "\n", "utf-8")
    (part / "cog.yaml").write_text(cog_yaml(described, name), "utf-8")
    card = model.folder / "README.md"
    if card.exists():
        shutil.copyfile(card, part / "README.md")
    part.replace(target)


def describe(model: FinishedModel) -> dict[str, Any]:
    """`model.json`: what the predictor has to know. Pure. Raises UsageError as `write_cog_folder`."""
    found = _HUB_ID.fullmatch(model.base)
    common = {
        "name": model.name, "prompt": model.prompt, "resolution": model.resolution or DEFAULT_SIDE,
        "guidance": min(model.guidance, MAX_GUIDANCE),
    }  # fmt: skip
    if model.lora is not None and found is not None and model.base_config is None:
        return {
            **common, "kind": "lora", "weights": f"weights/{model.lora.name}", "base": found["repo"],
            "revision": found["revision"],
        }  # fmt: skip
    if model.diffusers is not None:
        return {
            **common,
            "kind": "diffusers",
            "weights": f"weights/{model.diffusers.name}",
            "base": "",
            "revision": None,
        }
    raise UsageError(
        f"the base of run `{model.name}` is on no hub ({model.base}), and the run has no diffusers folder besides",
        'train with `--set output.formats=\'["lora", "diffusers"]\'`',
    )


def cog_yaml(described: dict[str, Any], name: str) -> str:
    """Pure. A value of YAML that is JSON is YAML."""
    lines = ["build:", "  gpu: true", f'  python_version: "{PYTHON}"', "  python_packages:"]
    lines += [f"    - {json.dumps(package)}" for package in (TORCH, *locked_packages())]
    if described["kind"] == "lora":
        revision = f", revision={described['revision']!r}" if described["revision"] else ""
        fetch = (
            "from diffusers import DiffusionPipeline; "
            f"DiffusionPipeline.download({described['base']!r}{revision}, cache_dir='/src/base-cache')"
        )
        lines += ["  run:", f"    - {json.dumps(f'python -c {json.dumps(fetch)}')}"]
    lines += ['predict: "predict.py:Predictor"']
    lines += [f"image: {json.dumps(f'r8.im/{name}')}"] if name else []
    return "\n".join(lines) + "\n"


def locked_packages() -> list[str]:
    """`name==version`, from the trainer's lock."""
    lock = (resources.files("remote_trainer") / "requirements.lock").read_text("utf-8")
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)", lock, re.MULTILINE))
    return [f"{name}=={pins[name]}" for name in LOCKED if name in pins]


def push_commands(name: str, target: Path) -> list[str]:
    """What a person with Docker types, in order."""
    named = name or "OWNER/NAME"
    return [
        f"cd {shlex.quote(str(target))}",
        "cog login",
        "cog predict -i prompt='a test'      # builds the image and makes one picture; needs a GPU to be quick",
        f"cog push r8.im/{named}             # after making the model, private, at https://replicate.com/create",
    ]
