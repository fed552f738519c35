"""Which part of a photo stays."""

from __future__ import annotations

from PIL import Image

from orchestrator.dataset.buckets import Bucket
from orchestrator.dataset.crops import Crop, best_offset, crop_to, kept_box
from tests.fakes.scenes import scene


def test_center_cuts_both_sides_alike() -> None:
    assert kept_box(Image.new("RGB", (300, 100)), Bucket(64, 64), Crop.CENTER) == (100, 0, 200, 100)


def test_smart_keeps_what_has_edges() -> None:
    picture = Image.new("RGB", (300, 100), "gray")
    picture.paste(scene(1, 100, 100), (200, 0))
    left, _, right, _ = kept_box(picture, Bucket(64, 64), Crop.SMART)
    assert left >= 195
    assert right - left == 100


def test_smart_keeps_the_middle_where_nothing_stands_out() -> None:
    assert best_offset([1.0] * 300, 100) == 100


def test_a_window_as_long_as_the_picture_does_not_move() -> None:
    assert best_offset([5.0, 1.0], 2) == 0


def test_the_result_has_the_buckets_size() -> None:
    for crop in Crop:
        assert crop_to(scene(2, 96, 64), Bucket(64, 64), crop).size == (64, 64)
