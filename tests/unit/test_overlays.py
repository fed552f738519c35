"""Marks that stand at one place in several photos."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw, ImageFont, ImageOps

from orchestrator.cli.main import cli
from orchestrator.dataset.measures import looked_at
from orchestrator.dataset.overlays import marked, ordered
from tests.fakes.scenes import scene

REAL = Path(__file__).parents[3] / "shared" / "datasets"


def stamped(picture: Image.Image, words: str, place: tuple[float, float], size: float, alpha: int) -> Image.Image:
    """`place` and `size` as shares of the picture; `alpha` 255 covers what is behind."""
    layer = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    at = (picture.width * place[0], picture.height * place[1])
    font = ImageFont.load_default(size * max(picture.size))
    ImageDraw.Draw(layer).text(at, words, (255, 255, 255, alpha), font, anchor="mm")
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


def found(pictures: list[Image.Image]) -> list[int]:
    """Numbers of the pictures that carry a mark."""
    blue = {Path(str(number)): looked_at(each).getchannel("B") for number, each in enumerate(pictures)}
    return sorted(int(str(path)) for path in marked(blue))


def scenes(count: int) -> list[Image.Image]:
    return [scene(seed, 512, 384) for seed in range(count)]


@pytest.mark.parametrize(
    ("words", "place", "size", "alpha"),
    [("(c) studio", (0.2, 0.95), 0.045, 255), ("(c) studio", (0.2, 0.95), 0.045, 90), ("SAMPLE", (0.5, 0.5), 0.14, 60)],
    ids=["logo", "faint logo", "across the middle"],
)
def test_a_mark_on_every_photo_is_found(words: str, place: tuple[float, float], size: float, alpha: int) -> None:
    assert found([stamped(each, words, place, size, alpha) for each in scenes(5)]) == [0, 1, 2, 3, 4]


def test_only_photos_that_carry_it_are_named() -> None:
    clean = scenes(9)
    marks = [stamped(each, "(c) studio", (0.2, 0.95), 0.06, 255) for each in clean[:7]]
    assert found([*marks, *clean[7:]]) == list(range(7))


def test_photos_without_a_mark_are_let_be() -> None:
    assert found(scenes(8)) == []


def test_three_photos_are_too_few_to_tell() -> None:
    assert found([stamped(each, "SAMPLE", (0.5, 0.5), 0.14, 255) for each in scenes(3)]) == []


def test_pictures_are_ordered_pixel_by_pixel() -> None:
    levels = ([9, 1], [3, 200], [5, 7], [4, 7])
    layers = ordered([Image.frombytes("L", (2, 1), bytes(pair)) for pair in levels])
    assert [list(layer.tobytes()) for layer in layers] == [[3, 1], [4, 7], [5, 7], [9, 200]]


def test_the_check_names_them(tmp_path: Path) -> None:
    for number, each in enumerate(scenes(4)):
        stamped(each, "SAMPLE", (0.5, 0.5), 0.14, 120).save(tmp_path / f"{number}.png")
    done = CliRunner().invoke(
        cli, ["dataset", "check", str(tmp_path), "--resolution", "256", "--json"], standalone_mode=False
    )
    *lines, _ = [json.loads(line) for line in done.stdout.splitlines()]
    for line in lines:
        (reason,) = [reason for reason in line["reasons"] if reason["code"] == "watermark"]
        assert "in 4 photos" in reason["message"]


@pytest.mark.skipif(not REAL.is_dir(), reason="real photos are not part of the repository")
def test_real_photos_have_no_mark_until_one_is_drawn_on_them() -> None:
    photos = []
    for path in sorted(REAL.glob("*/*.jpg")):
        with Image.open(path) as photo:
            photo.draft("RGB", (512, 512))
            photos.append(ImageOps.exif_transpose(photo).convert("RGB").resize((512, 384)))
    assert len(photos) == 10
    drawn = random.Random(1)
    for count in (4, 5, 6, 8, 10):
        assert found(drawn.sample(photos, count)) == []
    assert found([stamped(each, "(c) studio", (0.2, 0.95), 0.045, 120) for each in photos[:6]]) == [0, 1, 2, 3, 4, 5]
