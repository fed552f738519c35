"""Which photo is trained at which size. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.dataset.buckets import Bucket, Sizing, cropped_share, enlargement
from orchestrator.dataset.scan import Photo
from orchestrator.spec_data import PictureSet
from remote_trainer.wire import TrainSpec


@dataclass(frozen=True)
class Placement:
    """A photo and the size at which it is trained."""

    photo: Photo
    bucket: Bucket
    enlargement: float
    """Scale factor to cover the bucket; above 1 pixels are invented."""
    cropped_share: float
    """0…1 of the photo that the center crop leaves out."""


def place_photos(photos: Sequence[Photo], sizing: Sizing) -> tuple[Placement, ...]:
    """Every photo in the bucket nearest to its shape, in the order given."""
    placed = []
    for photo in photos:
        size = photo.width, photo.height
        bucket = sizing.bucket(*size)
        placed.append(Placement(photo, bucket, enlargement(*size, bucket), cropped_share(*size, bucket)))
    return tuple(placed)


def sizing_of_run(train: TrainSpec) -> Sizing:
    """Of photos that belong to no set with sizes of its own."""
    return Sizing("side", train.resolution, square=not train.aspect_buckets)


def sizing_of(pictures: PictureSet, train: TrainSpec) -> Sizing:
    """What the set leaves out, the run's training says."""
    of_run = sizing_of_run(train)
    square = of_run.square if pictures.square is None else pictures.square
    if pictures.resolution is None:
        return replace(of_run, square=square)
    return Sizing(pictures.resolution_type, pictures.resolution, square)
