"""Which photo is trained at which size. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.dataset.buckets import Bucket, bucket_for, cropped_share, enlargement
from orchestrator.dataset.scan import Photo
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


def place_photos(photos: Sequence[Photo], train: TrainSpec) -> tuple[Placement, ...]:
    """Every photo in the bucket nearest to its shape, in the order given."""
    placed = []
    for photo in photos:
        size = photo.width, photo.height
        bucket = bucket_for(*size, train.resolution, train.aspect_buckets)
        placed.append(Placement(photo, bucket, enlargement(*size, bucket), cropped_share(*size, bucket)))
    return tuple(placed)
