from __future__ import annotations

import pytest

from orchestrator.dataset.buckets import Bucket, bucket_for, cropped_share, enlargement, stride_for


@pytest.mark.parametrize(
    ("width", "height", "bucket"),
    [
        (780, 780, Bucket(512, 512)),
        (3000, 4000, Bucket(448, 576)),
        (4000, 3000, Bucket(576, 448)),
        (2000, 3000, Bucket(448, 640)),
        (1000, 5000, Bucket(384, 704)),
        (9000, 100, Bucket(704, 384)),
    ],
)
def test_sizes_at_512_are_those_of_the_published_formula(width: int, height: int, bucket: Bucket) -> None:
    assert bucket_for(width, height, 512, True) == bucket


@pytest.mark.parametrize("resolution", [64, 72, 128, 256, 512, 520, 768, 1024])
def test_a_square_photo_is_trained_at_exactly_the_resolution(resolution: int) -> None:
    assert bucket_for(1000, 1000, resolution, True) == Bucket(resolution, resolution)


@pytest.mark.parametrize("resolution", [64, 128, 256, 512, 520, 1024])
def test_sides_are_multiples_of_the_stride_and_areas_are_alike(resolution: int) -> None:
    stride = stride_for(resolution)
    for width in range(100, 2000, 37):
        bucket = bucket_for(width, 700, resolution, True)
        assert bucket.width % stride == bucket.height % stride == 0
        assert 0.75 < bucket.width * bucket.height / resolution**2 < 1.3


def test_small_and_odd_resolutions_align_to_8() -> None:
    assert (stride_for(64), stride_for(520), stride_for(256), stride_for(512)) == (8, 8, 64, 64)


def test_without_buckets_everything_is_square() -> None:
    assert bucket_for(3000, 1000, 512, False) == Bucket(512, 512)


def test_enlargement_covers_the_bucket() -> None:
    assert enlargement(256, 512, Bucket(512, 512)) == 2.0
    assert enlargement(1024, 2048, Bucket(512, 512)) == 0.5


def test_cropped_share_is_what_the_center_crop_leaves_out() -> None:
    assert cropped_share(1000, 2000, Bucket(512, 512)) == pytest.approx(0.5)
    assert cropped_share(512, 512, Bucket(512, 512)) == 0.0
