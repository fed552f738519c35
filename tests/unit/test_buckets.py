from __future__ import annotations

from typing import Any

import pytest

from orchestrator.dataset.buckets import Bucket, Sizing, bucket_for, cropped_share, enlargement, stride_for


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


@pytest.mark.parametrize(
    ("megapixels", "size", "bucket"),
    [
        (0.25, (1000, 1000), (512, 512)), (0.5, (1000, 1000), (768, 768)), (1.0, (1000, 1000), (1024, 1024)),
        (0.5, (3000, 4000), (640, 832)), (0.5, (2000, 3000), (576, 832)), (0.5, (1080, 1920), (512, 960)),
        (0.25, (3000, 4000), (448, 576)), (0.25, (2000, 3000), (448, 640)), (2.0, (1000, 1000), (1408, 1408)),
    ],
)  # fmt: skip
def test_areas_in_megapixels_become_what_simpletuner_makes_of_them(
    megapixels: float, size: tuple[int, int], bucket: tuple[int, int]
) -> None:
    assert Sizing("area", megapixels, square=False).bucket(*size) == Bucket(*bucket)


@pytest.mark.parametrize(
    ("size", "bucket"), [((3000, 4000), (512, 704)), ((4000, 3000), (704, 512)), ((9, 9), (512, 512))]
)
def test_a_short_edge_stays_what_it_is(size: tuple[int, int], bucket: tuple[int, int]) -> None:
    assert Sizing("short-edge", 512, square=False).bucket(*size) == Bucket(*bucket)


@pytest.mark.parametrize(("unit", "value"), [("area", 0.5), ("short-edge", 768), ("side", 768)])
def test_a_square_set_has_one_bucket(unit: Any, value: float) -> None:
    assert Sizing(unit, value, square=True).bucket(3000, 1000) == Bucket(768, 768)


def test_too_small_is_measured_in_the_unit_of_the_set() -> None:
    area, square = Sizing("area", 0.5, square=False), Sizing("area", 0.5, square=True)
    assert (area.is_too_small(512, 512, 0.25), area.is_too_small(512, 512, 0.5)) == (False, True)
    assert (area.is_too_small(400, 700, 0.25), square.is_too_small(400, 700, 0.25)) == (False, True)
    assert Sizing("side", 512, square=False).is_too_small(400, 700, 512)
