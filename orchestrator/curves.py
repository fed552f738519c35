"""The numbers of a run over its steps, under the names that every program for curves gets them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from remote_trainer import wire


@dataclass(frozen=True)
class Point:
    at: float
    """Unix seconds, by the clock of the machine that trains."""
    step: int
    values: Mapping[str, float]
    """`train/loss`, `train/lr`, `train/images_per_s`, `train/vram_gb` or `fixed_set/loss`; what was not said is out."""


def points(envelopes: Iterable[wire.Envelope]) -> Iterator[Point]:
    """Of every step told, and of every look at the fixed set."""
    for envelope in envelopes:
        event = envelope.event
        if isinstance(event, wire.StepDone):
            values = {"loss": event.loss, "lr": event.lr, "images_per_s": event.images_per_s, "vram_gb": event.vram_gb}
            yield Point(envelope.t, event.step, {f"train/{k}": v for k, v in values.items() if v is not None})
        elif isinstance(event, wire.Evaluated):
            yield Point(envelope.t, event.step, {"fixed_set/loss": event.mean_loss})
