"""Where a model is published, as a user names it. Pure."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.errors import UsageError
from orchestrator.storage.open import address_problem

Program = Literal["a1111", "comfyui"]

TARGETS = (
    "s3://bucket/prefix, a folder, hf:OWNER/NAME, replicate:OWNER/NAME, replicate-lora, a1111:FOLDER, comfyui:FOLDER"
)
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SUBFOLDERS: dict[Program, tuple[str, str]] = {
    "a1111": ("Lora", "Stable-diffusion"),
    "comfyui": ("loras", "checkpoints"),
}


@dataclass(frozen=True)
class StoreTarget:
    url: str


@dataclass(frozen=True)
class HubTarget:
    repo: str
    """`owner/name`; empty: the token's owner and the run's name."""


@dataclass(frozen=True)
class CogTarget:
    model: str
    """`owner/name` at Replicate; empty: to be filled in by whoever pushes."""


@dataclass(frozen=True)
class LoraUrlTarget:
    """For Replicate's official models, which take a LoRA by its address."""


@dataclass(frozen=True)
class ProgramTarget:
    program: Program
    host: str | None
    """`[user@]host` or an alias of ssh_config; None: this computer."""
    root: str
    """The program's folder, or its `models` folder."""

    @property
    def models(self) -> str:
        root = self.root.rstrip("/")
        return root if root.rsplit("/", 1)[-1] == "models" else f"{root}/models"

    def folder(self, *, adapter: bool) -> str:
        """Where files of a kind belong: the program looks nowhere else."""
        return f"{self.models}/{_SUBFOLDERS[self.program][0 if adapter else 1]}"


Target = StoreTarget | HubTarget | CogTarget | LoraUrlTarget | ProgramTarget


def parse_target(text: str) -> Target:
    """Raises UsageError, with the nearest form that would be right."""
    kind, colon, rest = text.partition(":")
    match kind:
        case "s3" | "file":
            if problem := address_problem(text):
                raise UsageError(f"the target {problem}", TARGETS)
            return StoreTarget(text)
        case "hf":
            return HubTarget(_repo(rest, "hf"))
        case "replicate":
            return CogTarget(_repo(rest.lower(), "replicate"))
        case "replicate-lora":
            return LoraUrlTarget()
        case "a1111" | "comfyui" if colon:
            return _program("a1111" if kind == "a1111" else "comfyui", rest)
    if kind in ("a1111", "comfyui"):
        raise UsageError(f"{kind} needs the folder where it is installed", f"{kind}:~/{kind}, or {kind}:me@host:{kind}")
    if "/" in text or text.startswith((".", "~")) or Path(text).is_dir():
        return StoreTarget(_absolute(text).as_uri())
    meant = f"did you mean ./{text}? Else: " if text and not colon else ""
    raise UsageError(f'"{text}" is no place to publish to', meant + TARGETS)


def _repo(text: str, kind: str) -> str:
    if text and not _REPO.fullmatch(text):
        raise UsageError(f'{kind} takes owner/name, is "{text}"', f"{kind}:me/my-dog")
    return text


def _absolute(folder: str) -> Path:
    """Without `..`, and without asking the disk: links stay as they were named."""
    return Path(os.path.abspath(Path(folder).expanduser()))


def _program(program: Program, place: str) -> ProgramTarget:
    remote = re.fullmatch(r"(?P<host>[^\s/:@-][^\s/:]*):(?P<path>.+)", place)
    if remote is not None:
        return ProgramTarget(program, remote["host"], remote["path"])
    if not place:
        raise UsageError(f"{program} needs the folder where it is installed", f"{program}:~/{program}")
    return ProgramTarget(program, None, str(_absolute(place)))
