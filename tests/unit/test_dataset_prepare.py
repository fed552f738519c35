"""`dataset prepare`: photos cut to size, bare, in a folder that can be launched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image, ImageFilter

from orchestrator.cli.main import cli
from orchestrator.dataset.prepared_folder import caption_for
from orchestrator.dataset.scan import scan_folder
from tests.fakes.scenes import scene


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        scene(seed, 350, 300).save(folder / f"dog on a beach-{seed}.png")
    return folder


def prepared(photos: Path, out: Path, *options: str) -> dict[str, Any]:
    argv = ["dataset", "prepare", str(photos), "--out", str(out), "--resolution", "256", *options, "--json"]
    done = CliRunner().invoke(cli, argv, standalone_mode=False)
    assert done.exception is None, done.exception
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def test_every_photo_becomes_a_picture_of_its_bucket(photos: Path, tmp_path: Path) -> None:
    assert prepared(photos, tmp_path / "out")["photos"] == 3
    sizes = {photo.path.name: (photo.width, photo.height) for photo in scan_folder(tmp_path / "out").photos}
    assert set(sizes.values()) == {(256, 256)}, "350 × 300 is nearest to the square bucket"


def test_squares_on_request(photos: Path, tmp_path: Path) -> None:
    prepared(photos, tmp_path / "out", "--square", "--resolution", "128", "--crop", "smart")
    assert {(p.width, p.height) for p in scan_folder(tmp_path / "out").photos} == {(128, 128)}


def test_where_a_photo_was_taken_stays_behind(photos: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera of Somebody"
    exif[0x0112] = 6
    scene(7, 500, 300).save(photos / "turned.jpg", quality=95, exif=exif, comment=b"my home")
    prepared(photos, tmp_path / "out")
    content = (tmp_path / "out/turned.png").read_bytes()
    assert b"Somebody" not in content
    assert b"my home" not in content
    with Image.open(tmp_path / "out/turned.png") as picture:
        assert picture.height > picture.width, "it was turned upright"
        assert not picture.getexif()


def test_captions_come_from_a_text_with_the_words_of_the_name(photos: Path, tmp_path: Path) -> None:
    (photos / "dog on a beach-1.txt").write_text("sks dog asleep")
    prepared(photos, tmp_path / "out", "--caption", "a photo of sks {name}")
    captions = {photo.path.stem: photo.caption for photo in scan_folder(tmp_path / "out").photos}
    assert captions == {
        "dog on a beach-0": "a photo of sks dog on a beach",
        "dog on a beach-1": "sks dog asleep",
        "dog on a beach-2": "a photo of sks dog on a beach",
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [("dog_on-a beach (2).jpg", "dog on a beach"), ("IMG-2041.jpg", "IMG"), ("close-up.png", "close up")],
)
def test_a_file_name_becomes_words(name: str, words: str) -> None:
    assert caption_for(Path(name), "{name}") == words


def test_a_caption_ends_without_the_comma_of_a_name_that_says_nothing() -> None:
    assert caption_for(Path("00.jpg"), "a photo of sks dog, {name}") == "a photo of sks dog"


def test_bad_photos_are_left_out_and_named(photos: Path, tmp_path: Path) -> None:
    scene(9).filter(ImageFilter.GaussianBlur(5)).save(photos / "blur.png")
    assert prepared(photos, tmp_path / "out")["left_out"] == ["blur.png"]
    assert prepared(photos, tmp_path / "all", "--keep-bad")["photos"] == 4


def test_photos_of_one_name_do_not_overwrite_each_other(photos: Path, tmp_path: Path) -> None:
    scene(8).save(photos / "a.png")
    scene(9).save(photos / "a.webp", quality=95)
    scene(10).save(photos / "a-2.png")
    assert prepared(photos, tmp_path / "out")["photos"] == 6
    assert len(scan_folder(tmp_path / "out").photos) == 6


@pytest.mark.parametrize("where", ["photos", "taken"])
def test_nothing_is_written_over(photos: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine.txt").write_text("mine")
    argv = ["dataset", "prepare", str(photos), "--out", str(tmp_path / where)]
    done = CliRunner().invoke(cli, argv, standalone_mode=False)
    assert done.exception is not None
    assert getattr(done.exception, "hint", "").strip("`").startswith("--out")
    assert len(list(photos.iterdir())) == 3
