"""What is measured on a photo, and where the limits lie."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from orchestrator.dataset.checks import BLURRED, SOFT
from orchestrator.dataset.measures import Borders, are_alike, jpeg_quality, measure
from tests.fakes.scenes import scene


def test_blur_of_a_pixel_is_soft_and_of_three_is_blurred() -> None:
    sharp = scene(1)
    soft = measure(sharp.filter(ImageFilter.GaussianBlur(1.2))).sharpness
    blurred = measure(sharp.filter(ImageFilter.GaussianBlur(4))).sharpness
    assert measure(sharp).sharpness > SOFT > soft
    assert blurred < BLURRED


def test_a_sharp_subject_before_a_blurred_background_is_sharp() -> None:
    picture = scene(1).filter(ImageFilter.GaussianBlur(9))
    picture.paste(scene(2, 80, 80), (110, 110))
    assert measure(picture).sharpness > SOFT


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: picture.resize((150, 150)),
        lambda picture: picture.point(lambda value: min(255, int(value * 1.05))),
        lambda picture: picture.crop((3, 3, 297, 297)),
        lambda picture: picture.rotate(1),
    ],
    ids=["smaller", "brighter", "cropped by a percent", "turned by a degree"],
)
def test_the_same_scene_taken_again_is_alike(change: object) -> None:
    picture = scene(3)
    assert are_alike(measure(picture).likeness, measure(change(picture)).likeness)  # type: ignore[operator]


def test_other_scenes_are_not_alike() -> None:
    likenesses = [measure(scene(seed)).likeness for seed in range(8)]
    pairs = [(a, b) for index, a in enumerate(likenesses) for b in likenesses[:index]]
    assert not any(are_alike(*pair) for pair in pairs)


def test_the_same_shapes_in_other_colors_are_not_alike() -> None:
    picture = scene(4)
    assert not are_alike(measure(picture).likeness, measure(Image.merge("RGB", picture.split()[::-1])).likeness)


def test_the_bars_of_a_film_are_a_border() -> None:
    picture = Image.new("RGB", (300, 400), "black")
    picture.paste(scene(5), (0, 50))
    found = measure(picture).borders
    assert (found.top, found.bottom) == (pytest.approx(0.125, abs=0.01), pytest.approx(0.125, abs=0.01))
    assert (found.left, found.right) == (0.0, 0.0)
    assert found.share == pytest.approx(0.25, abs=0.02)


def test_a_frame_around_a_picture_is_a_border() -> None:
    assert measure(ImageOps.expand(scene(6), 15, "white")).borders.share > 0.15


def test_a_subject_before_a_white_wall_has_no_border() -> None:
    picture = Image.new("RGB", (300, 300), "white")
    ImageDraw.Draw(picture).ellipse((75, 75, 225, 225), "navy")
    assert measure(picture).borders == Borders()


@pytest.mark.parametrize("quality", [30, 50, 60, 75, 90, 95])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(quality: int) -> None:
    file = io.BytesIO()
    scene(7, 64, 64).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        assert jpeg_quality(getattr(image, "quantization", None)) == quality


def test_what_is_no_jpeg_has_no_quality() -> None:
    assert measure(scene(7, 64, 64)).jpeg_quality is None
