"""`dataset check`: the verdict on each photo, the table of framings, the contact sheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image, ImageFilter, ImageOps

from orchestrator.cli.main import cli
from orchestrator.dataset.framing import Framing, framing_of, framing_table, shows_a_person
from orchestrator.dataset.look import turned_already
from tests.fakes.scenes import scene


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five photos that nothing is wrong with."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(5):
        scene(seed).save(folder / f"good-{seed}.png")
    return folder


def checked(folder: Path, *options: str, exit_code: int = 0) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """File name → its line, and the summary."""
    at = [] if folder.suffix == ".toml" else ["--resolution", "256"]
    argv = ["dataset", "check", str(folder), *at, *options, "--json"]
    done = CliRunner().invoke(cli, argv, standalone_mode=False)
    assert done.exception is None, done.output
    assert done.return_value == exit_code
    *lines, summary = [json.loads(line) for line in done.stdout.splitlines()]
    return {Path(line["file"]).name: line for line in lines}, summary


def codes(line: dict[str, Any]) -> list[str]:
    return [reason["code"] for reason in line["reasons"]]


def test_photos_that_nothing_is_wrong_with_are_good(photos: Path) -> None:
    lines, summary = checked(photos)
    assert {line["verdict"] for line in lines.values()} == {"good"}
    assert (summary["good"], summary["doubtful"], summary["bad"]) == (5, 0, 0)
    assert summary["findings"] == []


def _exif(orientation: int, width: int, height: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0xA002], exif.get_ifd(0x8769)[0xA003] = width, height
    return exif


@pytest.mark.parametrize(
    ("code", "verdict", "save"),
    [
        ("blurred", "bad", lambda to: scene(9).filter(ImageFilter.GaussianBlur(4)).save(to / "x.png")),
        ("soft", "doubtful", lambda to: scene(9).filter(ImageFilter.GaussianBlur(1.2)).save(to / "x.png")),
        ("tiny", "bad", lambda to: scene(9, 100, 100).save(to / "x.png")),
        ("small", "doubtful", lambda to: scene(9, 200, 200).save(to / "x.png")),
        ("long", "doubtful", lambda to: scene(9, 1000, 300).save(to / "x.png")),
        ("compressed", "doubtful", lambda to: scene(9).save(to / "x.jpg", quality=30)),
        ("border", "doubtful", lambda to: ImageOps.expand(scene(9), 20, "black").save(to / "x.png")),
        ("exposure", "doubtful", lambda to: scene(9).point(lambda v: v // 6).save(to / "x.png")),
        ("flat", "bad", lambda to: Image.new("RGB", (300, 300), "teal").save(to / "x.png")),
        ("same", "bad", lambda to: scene(2).save(to / "x.png")),
        ("alike", "doubtful", lambda to: scene(2).resize((350, 350)).save(to / "x.png")),
        ("turned", "bad", lambda to: scene(9, 300, 400).save(to / "x.jpg", quality=95, exif=_exif(6, 400, 300))),
        ("mirrored", "doubtful", lambda to: scene(9).save(to / "x.jpg", quality=95, exif=_exif(2, 300, 300))),
    ],
    ids=lambda value: value if isinstance(value, str) and value not in ("bad", "doubtful") else "",
)
def test_what_spoils_training_is_named(photos: Path, code: str, verdict: str, save: Any) -> None:
    save(photos)
    lines, _ = checked(photos)
    [suspect] = [line for name, line in lines.items() if name.startswith("x.")]
    assert code in codes(suspect)
    assert suspect["verdict"] == verdict
    assert all(reason["message"] and reason["hint"] for reason in suspect["reasons"])
    assert all(line["verdict"] == "good" for name, line in lines.items() if not name.startswith("x."))


def test_a_file_that_is_no_picture_is_bad_and_ends_with_exit_code_2(photos: Path) -> None:
    (photos / "notes.jpg").write_text("these are only words")
    (photos / "todo.txt").write_text("buy a frame")
    lines, summary = checked(photos, exit_code=2)
    assert (lines["notes.jpg"]["verdict"], codes(lines["notes.jpg"])) == ("bad", ["unusable"])
    assert [Path(finding["file"]).name for finding in summary["findings"]] == ["todo.txt"]


def test_too_few_photos_are_a_finding_about_the_folder(photos: Path) -> None:
    for seed in (0, 1, 2):
        (photos / f"good-{seed}.png").unlink()
    _, summary = checked(photos)
    [finding] = summary["findings"]
    assert finding["message"].startswith("holds only 2 photos")


def test_a_folder_without_photos_is_an_error_with_its_hint(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["dataset", "check", str(tmp_path)], standalone_mode=False)
    assert "is empty" in str(done.exception)


@pytest.mark.parametrize("suffix", [".heic", ".avif", ".webp"])
def test_photos_of_phones_and_of_the_web_are_looked_at_as_they_are(photos: Path, suffix: str) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    options = {"format": "HEIF"} if suffix == ".heic" else {}
    scene(9).save(photos / f"x{suffix}", quality=90, **options)
    lines, _ = checked(photos)
    assert (lines[f"x{suffix}"]["verdict"], lines[f"x{suffix}"]["width"]) == ("good", 300)


@pytest.mark.usefixtures("photos")
def test_a_spec_says_what_photos_are_trained_at(tmp_path: Path) -> None:
    spec = tmp_path / "me.toml"
    spec.write_text(
        '[subject]\ninstance_prompt = "a photo of sks person"\n[data]\ninstance = "photos"\n'
        "[train]\nresolution = 768\naspect_buckets = false\n"
    )
    lines, summary = checked(spec)
    assert lines["good-0.png"]["bucket"] == [768, 768]
    assert summary["framing"] is not None, "the prompt speaks of a person"


# ---- framing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "framing"),
    [
        ("close-1.jpg", Framing.CLOSE_UP),
        ("Face 03.png", Framing.CLOSE_UP),
        ("upper-body/3.jpg", Framing.UPPER_BODY),
        ("full_body_2.jpg", Framing.FULL_BODY),
        ("IMG_1234.jpg", None),
        ("careful.jpg", None),
    ],
)
def test_names_tell_how_close_the_camera_came(name: str, framing: Framing | None) -> None:
    assert framing_of(Path("/photos") / name, Path("/photos")) is framing


def test_the_table_says_what_is_missing() -> None:
    table = framing_table([Framing.CLOSE_UP] * 6 + [Framing.UPPER_BODY] + [None])
    assert [(row.framing, row.missing) for row in table.rows] == [
        (Framing.FULL_BODY, 2), (Framing.UPPER_BODY, 2), (Framing.CLOSE_UP, 0),
    ]  # fmt: skip
    assert (table.unnamed, table.is_complete) == (1, False)


def test_photos_in_folders_named_for_framings_belong_to_the_set(photos: Path) -> None:
    (photos / "close").mkdir()
    scene(20).save(photos / "close" / "1.png")
    lines, summary = checked(photos)
    assert lines["1.png"]["framing"] == "close-up"
    assert {row["framing"]: row["found"] for row in summary["framing"]}["close-up"] == 1
    assert summary["findings"] == []


def test_only_words_for_people_mean_a_person() -> None:
    assert shows_a_person("a photo of sks woman")
    assert not shows_a_person("a photo of sks mandolin")
    assert not shows_a_person(None)


# ---- orientation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "recorded", "already"),
    [((600, 800), (800, 600), True), ((800, 600), (800, 600), False), ((600, 600), (800, 600), False),
     ((600, 800), None, False)],
)  # fmt: skip
def test_a_turn_that_was_made_already_shows_in_the_recorded_size(
    stored: tuple[int, int], recorded: tuple[int, int] | None, already: bool
) -> None:
    assert turned_already(stored, recorded) is already


# ---- the contact sheet -----------------------------------------------------------------------------------------------


def test_the_page_shows_every_photo_and_loads_nothing(photos: Path, tmp_path: Path) -> None:
    scene(9).filter(ImageFilter.GaussianBlur(4)).save(photos / "<b>x.png")
    _, summary = checked(photos, "--sheet", str(tmp_path / "sheet.html"))
    page = (tmp_path / "sheet.html").read_text()
    assert summary["sheet"] == str(tmp_path / "sheet.html")
    assert page.count("data:image/jpeg;base64,") == 6
    assert "http" not in page.replace("http-equiv", "")
    assert "nothing in it is sharp" in page
    assert "<b>x" not in page


def test_the_picture_has_a_cell_for_every_photo(photos: Path, tmp_path: Path) -> None:
    checked(photos, "--sheet", str(tmp_path / "sheet.png"))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 240
        assert sheet.height > 2 * 240


def test_another_kind_of_sheet_is_refused(photos: Path, tmp_path: Path) -> None:
    argv = ["dataset", "check", str(photos), "--sheet", str(tmp_path / "sheet.pdf")]
    done = CliRunner().invoke(cli, argv, standalone_mode=False)
    assert "is .html or .png" in str(done.exception)
