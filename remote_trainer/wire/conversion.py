"""What a host has to know to write a trained model in other formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .codec import Count
from .job import Job

SourceKind = Literal["lora", "diffusers", "single-file", "checkpoint"]


@dataclass(frozen=True)
class Conversion:
    """What `export` writes. Nothing trains."""

    job: Job
    """As it trained the model, but for `formats`, which are those that are wanted."""
    source: str
    """Path of the model on this host."""
    kind: SourceKind
    step: Count
    """Up to which it was trained: names files, as in a run."""
