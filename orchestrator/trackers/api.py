"""Programs that keep the curves and pictures of many runs: Weights & Biases and trackio.

They are fed on the laptop, from the copies of a run's events: no key of theirs is ever needed on a machine that trains,
and a run knows nothing of them. Each is an optional extra with credentials and settings of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, assert_never

from orchestrator.curves import Point
from orchestrator.errors import UsageError
from providers.installation import installing

PROJECT = "cloudbooth"
"""Where runs are put that nobody named a project for."""
_PROJECT = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class Kind(Enum):
    """The value names the package to be imported, and the extra that brings it."""

    WANDB = "wandb"
    TRACKIO = "trackio"

    @property
    def words(self) -> str:
        match self:
            case Kind.WANDB:
                return "Weights & Biases"
            case Kind.TRACKIO:
                return "trackio"
        assert_never(self)


@dataclass(frozen=True)
class Target:
    """Where a run is logged: `wandb:my-project`, or `wandb:team/my-project`."""

    kind: Kind
    project: str

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.project}"

    @property
    def stem(self) -> str:
        """For names of files: equal for equal targets alone."""
        return f"{self.kind.value}-{self.project.replace('/', '+')}"


@dataclass(frozen=True)
class TrackedRun:
    id: str
    """Of this run alone, whatever others have had its name: to be logged into again after a pause."""
    name: str
    folder: Path
    """On this laptop, for what the program itself keeps."""
    settings: Mapping[str, object]
    """What it was trained with."""


class Tracker(Protocol):
    """A run that is open in such a program. Not to be shared by threads. Every method raises CloudboothError."""

    def log(self, point: Point) -> None: ...

    def show(self, step: int, name: str, picture: Path, caption: str) -> None:
        """A picture of `step`; pictures of one `name` stand side by side over the steps."""
        ...

    def close(self) -> None:
        """Blocks until all has been handed over. The run can be opened again."""
        ...


def targets_of(text: str) -> tuple[Target, ...]:
    """Of `wandb`, `trackio:PROJECT` and so on, with commas between, each once. Raises UsageError for anything else."""
    return tuple(dict.fromkeys(target_of(part.strip()) for part in text.split(",") if part.strip()))


def target_of(text: str) -> Target:
    name, _, project = text.partition(":")
    if name not in {kind.value for kind in Kind}:
        raise UsageError(f'a run can be logged to wandb or trackio, not to "{name}"', "--log-to wandb:my-project")
    return Target(Kind(name), named_project(project or PROJECT))


def named_project(name: str) -> str:
    """Raises UsageError for what neither program takes."""
    if not _PROJECT.fullmatch(name):
        raise UsageError(f'"{name}" cannot be the name of a project', 'letters, digits, "-", "_", "."; or TEAM/PROJECT')
    return name


def require_installed(kind: Kind) -> None:
    """Looks for the package without importing it. Raises UsageError when it is missing."""
    if find_spec(kind.value) is None:
        raise UsageError(
            f"logging to {kind.words} needs the package `{kind.value}`", f"in the checkout: {installing(kind.value)}"
        )
