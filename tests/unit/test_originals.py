"""Photos that travel with their own pixels, and with nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageCms

from orchestrator.dataset.bare_jpeg import NotBared, bare_jpeg
from orchestrator.dataset.buckets import Bucket
from orchestrator.dataset.originals import ship_original, ship_originals
from orchestrator.dataset.scan import Photo, scan_photo
from orchestrator.errors import UsageError
from remote_trainer.wire import ImageSpec
from tests.fakes.photos import picture, save_photo

SQUARE = Bucket(64, 64)


def scanned(path: Path) -> Photo:
    photo, _ = scan_photo(path)
    assert photo is not None
    return photo


def shipped(path: Path) -> tuple[ImageSpec, bytes]:
    image = ship_original(scanned(path), SQUARE, path.parent, 0)
    return image, (path.parent / image.file).read_bytes()


def decoded(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    picture(120, 90).save(file, "JPEG", **options)
    return file.getvalue()


def secrets() -> dict[str, object]:
    """Options for `save` that put a secret wherever Pillow can put one."""
    exif = Image.Exif()
    exif[0x010F] = "SECRET camera"
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[29] = "SECRET place"
    exif.get_ifd(0x8769)[0x927C] = b"SECRET maker note"
    return {"exif": exif, "comment": b"SECRET comment", "xmp": b"SECRET xmp", "dpi": (300, 300)}


def test_a_jpeg_keeps_its_coded_picture_and_nothing_else(tmp_path: Path) -> None:
    path = save_photo(tmp_path / "My Dog.jpg", 120, 90, quality=83, **secrets())
    assert path.read_bytes().count(b"SECRET") == 5
    image, content = shipped(path)
    assert image.file == "000-My-Dog.jpg"
    assert b"SECRET" not in content
    bare = decoded(content)
    assert not bare.getexif()
    assert set(bare.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert ImageChops.difference(bare, decoded(path.read_bytes())).getbbox() is None
    assert bare.quantization == Image.open(path).quantization  # type: ignore[attr-defined]


def test_the_turn_of_a_jpeg_is_told_in_the_job(tmp_path: Path) -> None:
    image, _ = shipped(save_photo(tmp_path / "a.jpg", **secrets()))
    assert (image.original, image.orientation) == (True, 6)


@pytest.mark.parametrize("options", [{"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 2}])
def test_every_usual_coding_is_kept_bit_for_bit(options: dict[str, object]) -> None:
    plain = jpeg(**options)
    assert bare_jpeg(jpeg(**options, comment=b"SECRET")) == bare_jpeg(plain)
    assert decoded(bare_jpeg(plain)).tobytes() == decoded(plain).tobytes()


def test_what_stands_behind_the_picture_is_left_behind() -> None:
    assert bare_jpeg(jpeg() + b"SECRET film") == bare_jpeg(jpeg())


def test_a_thumbnail_in_the_header_is_left_behind() -> None:
    plain = jpeg()
    header = b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
    assert plain[2:20] == header
    with_thumbnail = plain[:2] + b"\xff\xe0\x00\x13JFIF\0\x01\x01\0\0\x01\0\x01\x01\x01SEC" + plain[20:]
    assert bare_jpeg(with_thumbnail) == bare_jpeg(plain)


@pytest.mark.parametrize("cut", [0, 1, 3, 20, 400, -2])
def test_a_truncated_jpeg_is_not_bared(cut: int) -> None:
    with pytest.raises(NotBared):
        bare_jpeg(jpeg()[:cut])


def test_an_unknown_segment_is_left_to_a_decoder() -> None:
    plain = jpeg()
    with pytest.raises(NotBared, match="0xF0"):
        bare_jpeg(plain[:2] + b"\xff\xf0\x00\x04ab" + plain[2:])


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_another_format_becomes_an_upright_png_of_the_same_pixels(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = picture(120, 90)
    stored.save(tmp_path / f"a.{suffix}", exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    image, content = shipped(tmp_path / f"a.{suffix}")
    assert (image.file, image.original, image.orientation) == ("000-a.png", True, 1)
    upright = stored.transpose(Image.Transpose.ROTATE_270)
    assert decoded(content).tobytes() == upright.tobytes()
    assert decoded(content).info == {}


def test_a_profile_that_is_srgb_is_left_behind_without_decoding(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image, content = shipped(save_photo(tmp_path / "a.jpg", icc_profile=profile))
    assert image.file == "000-a.jpg"
    assert "icc_profile" not in decoded(content).info


def test_colors_of_another_profile_are_converted(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red_means_blue = srgb.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.jpg", icc_profile=red_means_blue, quality=95)
    image, content = shipped(tmp_path / "a.jpg")
    assert image.file == "000-a.png"
    color = decoded(content).getpixel((5, 5))
    assert isinstance(color, tuple)
    assert color[2] > 240 > 15 > color[0]


def test_cmyk_becomes_a_png_in_rgb(tmp_path: Path) -> None:
    _, content = shipped(save_photo(tmp_path / "a.jpg", 128, 128, "CMYK"))
    assert (decoded(content).format, decoded(content).mode) == ("PNG", "RGB")


def test_originals_keep_their_order_and_captions(tmp_path: Path) -> None:
    save_photo(tmp_path / "b.jpg")
    (tmp_path / "b.txt").write_text("sks dog", "utf-8")
    save_photo(tmp_path / "a.png")
    placed = [(scanned(tmp_path / "b.jpg"), SQUARE), (scanned(tmp_path / "a.png"), SQUARE)]
    images = ship_originals(placed, tmp_path / "out")
    assert [(image.file, image.caption) for image in images] == [("000-b.jpg", "sks dog"), ("001-a.png", None)]


def test_a_photo_changed_after_the_plan_is_not_shipped(tmp_path: Path) -> None:
    photo = scanned(save_photo(tmp_path / "a.jpg"))
    save_photo(tmp_path / "a.jpg", 121)
    with pytest.raises(UsageError, match="has changed since the plan was made"):
        ship_original(photo, SQUARE, tmp_path, 0)
