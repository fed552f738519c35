from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.dataset.picture import MAX_BYTES, MAX_PIXELS
from orchestrator.dataset.scan import Scan, Severity, readable, require_usable, scan_folder, scan_photo
from orchestrator.errors import UsageError
from tests.fakes.photos import photo_folder, picture, save_photo

DOG_PHOTOS = Path(__file__).parents[3] / "shared" / "datasets" / "dog"


def said(scan: Scan, severity: Severity) -> dict[str, str]:
    return {finding.path.name: finding.message for finding in scan.findings if finding.severity is severity}


def told(scan: Scan) -> str:
    return "".join(
        f"{finding.severity.value}: {finding.path} {finding.message}\n"
        + (f"  hint: {finding.hint}\n" if finding.hint else "")
        for finding in scan.findings
    )


# ---- good photos ---------------------------------------------------------------------------------------------------


def test_what_phones_put_beside_a_photo_needs_no_words(tmp_path: Path) -> None:
    photo_folder(tmp_path)
    for name in ("0.MOV", "1.aae", "2.xmp", ".DS_Store", "._3.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert scan_folder(tmp_path).findings == ()


def test_a_film_by_itself_is_named(tmp_path: Path) -> None:
    photo_folder(tmp_path)
    (tmp_path / "holiday.mov").write_bytes(b"x")
    assert said(scan_folder(tmp_path), Severity.NOTE) == {"holiday.mov": "is not a picture: not used"}


def test_a_picture_without_an_ending_is_known_by_its_content(tmp_path: Path) -> None:
    photo_folder(tmp_path)
    (tmp_path / "0.jpg").rename(tmp_path / "from-the-web")
    (tmp_path / "LICENSE").write_text("words")
    scan = scan_folder(tmp_path)
    assert said(scan, Severity.WARNING)["from-the-web"] == "is a picture without an ending: not used"
    assert said(scan, Severity.NOTE) == {"LICENSE": "is not a picture: not used"}


def test_the_caption_of_a_heic_photo_belongs_to_it(tmp_path: Path) -> None:
    (photo_folder(tmp_path) / "IMG_1.HEIC").write_bytes(b"x")
    (tmp_path / "IMG_1.txt").write_text("sks dog")
    assert "IMG_1.txt" not in said(scan_folder(tmp_path), Severity.NOTE)


def test_five_good_photos_need_no_words(tmp_path: Path) -> None:
    scan = scan_folder(photo_folder(tmp_path))
    assert [photo.path.name for photo in scan.photos] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert scan.findings == ()
    require_usable(scan)


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "webp", "bmp", "tif", "gif"])
def test_usual_formats_are_read(tmp_path: Path, suffix: str) -> None:
    save_photo(tmp_path / f"a.{suffix}", 100, 80)
    (photo,) = scan_folder(tmp_path).photos
    assert (photo.width, photo.height) == (100, 80)


def test_the_size_is_the_one_people_see(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save_photo(tmp_path / "a.jpg", 100, 80, exif=exif)
    scan = scan_folder(tmp_path)
    assert (scan.photos[0].width, scan.photos[0].height) == (80, 100)
    assert said(scan, Severity.NOTE) == {"a.jpg": "is turned upright as its EXIF orientation says"}


def test_a_text_file_beside_a_photo_is_its_caption(tmp_path: Path) -> None:
    photo_folder(tmp_path)
    (tmp_path / "1.txt").write_text("  sks dog\n on a sofa ", "utf-8")
    (tmp_path / "other.txt").write_text("x", "utf-8")
    scan = scan_folder(tmp_path)
    assert [photo.caption for photo in scan.photos] == [None, "sks dog on a sofa", None, None, None]
    assert said(scan, Severity.NOTE) == {"other.txt": "is a caption without a photo of the same name: not used"}


@pytest.mark.parametrize(
    ("mode", "suffix", "note"),
    [
        ("CMYK", "jpg", "is CMYK, for printing: converted to RGB"),
        ("RGBA", "png", "has transparent parts: laid on white"),
        ("LA", "png", "has transparent parts: laid on white"),
        ("P", "png", "has a color palette: converted to RGB"),
        ("L", "jpg", "is black and white"),
        ("I;16", "png", "has 16 bits a channel: scaled to 8"),
    ],
)
def test_a_conversion_is_noted(tmp_path: Path, mode: str, suffix: str, note: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if mode == "I;16":
        Image.new("I;16", (100, 80), 30000).save(path)
    else:
        save_photo(path, 100, 80, mode)
    scan = scan_folder(tmp_path)
    assert said(scan, Severity.NOTE) == {path.name: note}
    assert len(scan.photos) == 1


def test_only_the_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (100, 80), color) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert said(scan_folder(tmp_path), Severity.WARNING)["a.gif"] == "has 3 frames: only the first is used"


def test_a_phone_s_second_view_is_no_animation(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[picture()])
    scan = scan_folder(tmp_path)
    assert len(scan.photos) == 1
    assert "a.jpg" not in said(scan, Severity.WARNING)


def test_twice_the_same_file_is_a_warning(tmp_path: Path) -> None:
    photo_folder(tmp_path)
    (tmp_path / "9.jpg").write_bytes((tmp_path / "0.jpg").read_bytes())
    warnings = said(scan_folder(tmp_path), Severity.WARNING)
    assert warnings == {"9.jpg": "is the same file as 0.jpg: it counts twice in training"}


@pytest.mark.parametrize(
    ("count", "warning"),
    [
        (1, "holds a single photo: the model will mostly repeat it"),
        (2, "holds only 2 photos: the model will mostly repeat them"),
        (4, "holds only 4 photos: more make it more flexible"),
    ],
)
def test_few_photos_are_a_warning(tmp_path: Path, count: int, warning: str) -> None:
    scan = scan_folder(photo_folder(tmp_path, count))
    assert said(scan, Severity.WARNING) == {tmp_path.name: warning}


def test_hidden_files_and_subfolders_are_left_alone(tmp_path: Path) -> None:
    photo_folder(tmp_path)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    save_photo(tmp_path / ".hidden.jpg")
    save_photo(tmp_path / "more" / "a.jpg")
    (tmp_path / "empty").mkdir()
    scan = scan_folder(tmp_path)
    assert len(scan.photos) == 5
    assert said(scan, Severity.NOTE) == {"more": "is a subfolder with 1 picture: not used"}


def test_photos_that_lie_in_a_subfolder_are_found(tmp_path: Path) -> None:
    save_photo(tmp_path / "others" / "a.jpg")
    save_photo(tmp_path / "nest" / "the sub" / "a.jpg")
    save_photo(tmp_path / "nest" / "the sub" / "b.jpg")
    [error] = scan_folder(tmp_path).errors
    assert error.message == "holds no photos itself: they are in nest/the sub"
    assert error.hint == f"give that folder: `'{tmp_path}/nest/the sub'`"


def test_photos_in_hidden_or_deep_folders_are_not_looked_for(tmp_path: Path) -> None:
    save_photo(tmp_path / ".thumbnails" / "a.jpg")
    save_photo(tmp_path / "1" / "2" / "3" / "4" / "a.jpg")
    [error] = scan_folder(tmp_path).errors
    assert error.message == "is empty"


@pytest.mark.parametrize("heif", [True, False])
def test_the_readable_formats_name_heic_and_what_it_needs(heif: bool) -> None:
    assert "heic" in readable(heif)
    assert ("[heif]" in readable(heif)) is not heif


# ---- bad files -----------------------------------------------------------------------------------------------------


def _bad_folder(folder: Path) -> Path:
    photo_folder(folder)
    (folder / "text.jpg").write_text("I am a text", "utf-8")
    (folder / "page.png").write_text("<!DOCTYPE html><p>404", "utf-8")
    (folder / "binary.jpg").write_bytes(bytes(range(256)))
    (folder / "empty.jpg").write_bytes(b"")
    whole = save_photo(folder / "cut.jpg", 400, 400, quality=95).read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    save_photo(folder / "tiny.png", 4, 4)
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "renamed.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    save_photo(folder / "caption.jpg", 130, 100)
    (folder / "caption.txt").write_bytes(b"\xff\xfe\xff")
    (folder / "raw.cr2").write_bytes(b"x")
    (folder / "film.mp4").write_bytes(b"x")
    return folder


def test_every_bad_file_is_named_with_a_hint(tmp_path: Path, snapshot: Callable[[str, str], None]) -> None:
    snapshot("findings", told(scan_folder(_bad_folder(tmp_path))))


def test_bad_files_stop_the_command_all_at_once(tmp_path: Path, snapshot: Callable[[str, str], None]) -> None:
    with pytest.raises(UsageError) as caught:
        require_usable(scan_folder(_bad_folder(tmp_path)))
    snapshot("bad_files", f"{caught.value.message}\n\nhint: {caught.value.hint}\n")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "gif", "bmp"])
def test_a_truncated_photo_is_an_error_in_every_format(tmp_path: Path, suffix: str) -> None:
    noise = Image.effect_noise((300, 300), 80).convert("RGB")
    path = tmp_path / f"cut.{suffix}"
    noise.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    assert "cut." + suffix in said(scan_folder(tmp_path), Severity.ERROR)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "gif", "bmp"])
def test_no_damage_escapes_as_anything_but_a_finding(tmp_path: Path, suffix: str) -> None:
    rng = random.Random(suffix)
    path = tmp_path / f"a.{suffix}"
    Image.effect_noise((90, 70), 60).convert("RGB").save(path)
    whole = path.read_bytes()
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(4):
            damaged[rng.randrange(rng.choice((60, 400, len(whole))))] = rng.randrange(256)
        path.write_bytes(damaged)
        photo, findings = scan_photo(path)
        assert photo is not None or any(finding.severity is Severity.ERROR for finding in findings)
        outcomes.add(photo is None)
    assert True in outcomes


def test_one_bad_file_is_one_sentence(tmp_path: Path) -> None:
    photo_folder(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UsageError) as caught:
        require_usable(scan_folder(tmp_path))
    assert caught.value.message == f"{tmp_path / 'a.jpg'} is empty (0 bytes)"


def test_a_file_that_claims_too_many_pixels_is_never_decoded(tmp_path: Path) -> None:
    side = 20_000
    assert side * side > MAX_PIXELS
    header = b"IHDR" + side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    data = b"IDAT" + zlib.compress(b"")
    chunks = b"".join(
        (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        for chunk in (header, data, b"IEND")
    )
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    assert said(scan_folder(tmp_path), Severity.ERROR) == {"bomb.png": "has more than 200 million pixels"}


def test_links_to_nothing_pipes_and_giants_are_named_and_never_read(tmp_path: Path) -> None:
    photo_folder(tmp_path)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "giant.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert said(scan_folder(tmp_path), Severity.ERROR) == {
        "giant.png": "is larger than 1 GB",
        "link.jpg": "is gone, or a link to nothing",
        "pipe.jpg": "is no regular file",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_photo_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    photo_folder(tmp_path)
    (tmp_path / "0.jpg").chmod(0)
    assert said(scan_folder(tmp_path), Severity.ERROR) == {"0.jpg": "may not be read by you"}


# ---- bad folders ---------------------------------------------------------------------------------------------------


def test_a_missing_folder_names_the_nearest_that_exists(tmp_path: Path) -> None:
    (finding,) = scan_folder(tmp_path / "a" / "b").findings
    assert finding.message == "does not exist"
    assert finding.hint == f"the nearest folder that exists is {tmp_path}"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (finding,) = scan_folder(save_photo(tmp_path / "a.jpg")).findings
    assert (finding.severity, finding.message) == (Severity.ERROR, "is a file, not a folder")


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    assert said(scan_folder(tmp_path), Severity.ERROR) == {tmp_path.name: "is empty"}


def test_a_folder_without_readable_photos_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"x")
    scan = scan_folder(tmp_path)
    assert said(scan, Severity.ERROR) == {tmp_path.name: "holds no photos in a format that can be read"}


@pytest.mark.skipif(not DOG_PHOTOS.is_dir(), reason="the photographs are not on this machine")
def test_real_photographs_are_usable() -> None:
    scan = scan_folder(DOG_PHOTOS)
    require_usable(scan)
    assert [(photo.width, photo.height) for photo in scan.photos][-1] == (687, 687)
    assert len(scan.photos) == 5
