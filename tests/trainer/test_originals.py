"""Scaled on the machine or on the laptop, a photo is trained alike."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from orchestrator.dataset.buckets import Bucket
from orchestrator.dataset.originals import ship_originals
from orchestrator.dataset.prepare import prepare_photos
from orchestrator.dataset.scan import Photo, scan_photo
from remote_trainer.dataset.pictures import load_pixels, training_set
from remote_trainer.wire import DatasetSpec, ImageSpec, Job, TrainSpec

STEP = 1 / 127.5
"""One of the 256 values that a color has in a file."""


def photograph(path: Path, size: tuple[int, int], orientation: int = 1, **options: object) -> Photo:
    """A picture in which every corner, and each of three scales, looks different."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    red, green = Image.linear_gradient("L").resize(size), Image.radial_gradient("L").resize(size)
    blue = Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 60)
    Image.merge("RGB", (red, green, blue)).save(path, exif=exif, **options)
    photo, _ = scan_photo(path)
    assert photo is not None
    return photo


def pixels(folder: Path, images: tuple[ImageSpec, ...]) -> torch.Tensor:
    dataset = DatasetSpec("instance", "instance", ".", "a photo of sks dog", images)
    job = Job("r", "r", "builtin:tiny", TrainSpec(resolution=64), (dataset,), ("lora",))
    return load_pixels(training_set(job, folder).instance[0])


def both_ways(photo: Photo, bucket: Bucket, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    laptop, machine = folder / "laptop", folder / "machine"
    return (
        pixels(laptop, prepare_photos([(photo, bucket)], laptop)),
        pixels(machine, ship_originals([(photo, bucket)], machine)),
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_trained_on_the_very_same_pixels(tmp_path: Path, orientation: int) -> None:
    photo = photograph(tmp_path / "a.jpg", (1203, 797), orientation, quality=90)
    here, there = both_ways(photo, Bucket(72, 56), tmp_path)
    assert here.shape == (3, 56, 72)
    assert torch.equal(here, there)


@pytest.mark.parametrize("size", [(80, 140), (128, 104), (129, 104), (150, 120)])
def test_one_that_has_to_grow_or_hardly_to_shrink_is_trained_on_the_very_same_pixels(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    here, there = both_ways(photograph(tmp_path / "a.jpg", size, quality=90), Bucket(128, 104), tmp_path)
    assert torch.equal(here, there)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_another_format_is_trained_on_nearly_the_same_pixels(tmp_path: Path, suffix: str, orientation: int) -> None:
    """It is turned before it is scaled instead of after, which moves the blocks that are averaged first."""
    photo = photograph(tmp_path / f"a.{suffix}", (603, 398), orientation)
    here, there = both_ways(photo, Bucket(72, 56), tmp_path)
    difference = (here - there).abs()
    assert difference.mean() < STEP / 2
    assert difference.max() < 8 * STEP


def test_a_black_and_white_jpeg_is_trained_on_the_very_same_pixels(tmp_path: Path) -> None:
    Image.linear_gradient("L").resize((300, 200)).save(tmp_path / "a.jpg")
    photo, _ = scan_photo(tmp_path / "a.jpg")
    assert photo is not None
    here, there = both_ways(photo, Bucket(72, 56), tmp_path)
    assert torch.equal(here, there)
