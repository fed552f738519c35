from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from remote_trainer.grids import grid


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), "red").save(path)
    return path


def ink(sheet: Image.Image, box: tuple[int, int, int, int]) -> bool:
    return sheet.crop(box).convert("L").getextrema()[0] < 128


def test_without_labels_pictures_stand_at_their_own_size(picture: Path) -> None:
    assert grid([[picture, picture]], ["before", "after"]).size == (2 * 68 + 4, 68 + 4 + 14)


def test_a_label_stands_beside_its_row_and_small_pictures_are_enlarged(picture: Path) -> None:
    sheet = grid([[picture], [picture]], ["before"], ["a photo of a dog", ""])
    margin = sheet.width - 192 - 4 - 4
    assert sheet.getpixel((margin + 100, 100)) == (255, 0, 0)
    assert ink(sheet, (0, 18, margin, 18 + 192))
    assert not ink(sheet, (0, 18 + 196, margin, 18 + 196 + 192))


@pytest.mark.parametrize("label", ["many words " * 200, "x" * 2000])
def test_a_long_label_stays_within_its_row(picture: Path, label: str) -> None:
    sheet = grid([[picture], [picture]], ["before"], [label, ""])
    margin = sheet.width - 192 - 4 - 4
    assert not ink(sheet, (0, 18 + 196, margin, sheet.height))
    assert not ink(sheet, (margin, 18, margin + 4, sheet.height))


@pytest.mark.parametrize("label", ["写真 ☃ é", "two\nlines\tand a tab", "\u202e\x00"])
def test_no_label_is_refused(picture: Path, label: str) -> None:
    assert grid([[picture]], ["before"], [label]).height == 18 + 196
