from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageCms, ImageStat

from orchestrator.dataset.buckets import Bucket
from orchestrator.dataset.prepare import prepare_photo, prepare_photos
from orchestrator.dataset.scan import Photo, scan_photo
from orchestrator.errors import UsageError
from tests.fakes.photos import save_photo

SQUARE = Bucket(64, 64)


def scanned(path: Path) -> Photo:
    photo, _ = scan_photo(path)
    assert photo is not None
    return photo


def prepared(path: Path, bucket: Bucket = SQUARE) -> Image.Image:
    target = path.parent / "out" / "a.png"
    prepare_photo(scanned(path), bucket, target)
    image = Image.open(target)
    image.load()
    return image


def near(color: object, expected: tuple[int, int, int], tolerance: int = 12) -> bool:
    assert isinstance(color, tuple)
    return all(abs(a - b) <= tolerance for a, b in zip(color, expected, strict=True))


@pytest.mark.parametrize(("width", "height"), [(120, 90), (90, 120), (781, 687), (65, 64), (64, 640), (100, 100)])
@pytest.mark.parametrize("bucket", [SQUARE, Bucket(56, 72), Bucket(448, 576)])
def test_the_picture_just_covers_its_bucket(tmp_path: Path, width: int, height: int, bucket: Bucket) -> None:
    image = prepared(save_photo(tmp_path / "a.png", width, height), bucket)
    assert image.width >= bucket.width
    assert image.height >= bucket.height
    assert image.width == bucket.width or image.height == bucket.height


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("value", range(1, 9))
def test_the_photo_is_upright(tmp_path: Path, suffix: str, value: int) -> None:
    """The file is made so that upright, the red corner is at the top left of a 160 × 96 picture."""
    upright = Image.new("RGB", (160, 96), (20, 40, 210))
    upright.paste((220, 30, 20), (0, 0, 64, 32))
    back = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = value
    stored = upright.transpose(Image.Transpose[back[value]]) if value in back else upright
    stored.save(tmp_path / f"a.{suffix}", exif=exif)
    photo = scanned(tmp_path / f"a.{suffix}")
    assert (photo.width, photo.height) == (160, 96)
    image = prepared(photo.path, Bucket(80, 48))
    assert image.size == (80, 48)
    assert near(image.getpixel((8, 6)), (220, 30, 20), 30)
    assert near(image.getpixel((72, 6)), (20, 40, 210), 30)
    assert near(image.getpixel((8, 42)), (20, 40, 210), 30)


@pytest.mark.parametrize("side", [781, 1033])
def test_a_reduced_decode_does_not_shift_the_picture(tmp_path: Path, side: int) -> None:
    gradient = Image.linear_gradient("L").resize((side, side)).convert("RGB")
    gradient.save(tmp_path / "a.jpg", quality=100)
    expected = gradient.resize((64, 64), Image.Resampling.LANCZOS)
    difference = ImageChops.difference(prepared(tmp_path / "a.jpg"), expected)
    assert max(high for _, high in ImageStat.Stat(difference).extrema) <= 1


def test_nothing_but_pixels_leaves_the_laptop(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera of Jane Doe"
    exif.get_ifd(0x8825)[1] = "N"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    save_photo(tmp_path / "a.jpg", 128, 128, exif=exif, icc_profile=profile, comment=b"a secret", dpi=(300, 300))
    image = prepared(tmp_path / "a.jpg")
    assert image.info == {}
    assert not image.getexif()
    assert b"Jane Doe" not in (tmp_path / "out" / "a.png").read_bytes()


def test_deep_gray_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    Image.new("I;16", (64, 64), 257 * 100).save(tmp_path / "a.png")
    image = prepared(tmp_path / "a.png")
    assert (image.mode, image.getpixel((10, 10))) == ("RGB", (100, 100, 100))


def test_transparency_becomes_white(tmp_path: Path) -> None:
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert prepared(tmp_path / "a.png").getpixel((5, 5)) == (255, 255, 255)


def test_a_masked_set_keeps_transparency_and_the_colors_behind_it(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (128, 96), (200, 30, 40, 255))
    picture.paste((10, 200, 30, 0), (0, 0, 64, 96))
    picture.save(tmp_path / "a.png")
    spec = prepare_photo(scanned(tmp_path / "a.png"), SQUARE, tmp_path / "out.png", masked=True)
    made = Image.open(tmp_path / "out.png")
    assert (spec.masked, made.mode, made.size) == (True, "RGBA", (86, 64))
    behind, before = made.getpixel((10, 30)), made.getpixel((76, 30))
    assert (behind, before) == ((10, 200, 30, 0), (200, 30, 40, 255))


def test_a_mask_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    Image.new("RGBA", (64, 64), (1, 2, 3, 0)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="wholly transparent"):
        prepare_photo(scanned(tmp_path / "a.png"), SQUARE, tmp_path / "out.png", masked=True)


def test_an_opaque_photo_of_a_masked_set_is_plain(tmp_path: Path) -> None:
    spec = prepare_photo(scanned(save_photo(tmp_path / "a.jpg")), SQUARE, tmp_path / "out.png", masked=True)
    assert (spec.masked, Image.open(tmp_path / "out.png").mode) == (False, "RGB")


def test_a_transparent_palette_becomes_white(tmp_path: Path) -> None:
    Image.new("P", (64, 64), 0).save(tmp_path / "a.png", transparency=0)
    assert prepared(tmp_path / "a.png").getpixel((5, 5)) == (255, 255, 255)


def test_cmyk_keeps_its_colors(tmp_path: Path) -> None:
    image = prepared(save_photo(tmp_path / "a.jpg", 128, 128, "CMYK", quality=95))
    assert near(image.getpixel((10, 32)), (220, 30, 20), 20)


def test_only_the_first_frame_is_used(tmp_path: Path) -> None:
    red, green = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "green")
    red.save(tmp_path / "a.gif", save_all=True, append_images=[green])
    assert prepared(tmp_path / "a.gif").getpixel((5, 5)) == (255, 0, 0)


def test_colors_of_another_rgb_space_are_converted_to_srgb(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red_means_blue = srgb.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png", icc_profile=red_means_blue)
    assert near(prepared(tmp_path / "a.png").getpixel((5, 5)), (0, 0, 255), 2)


@pytest.mark.parametrize(
    "profile", [b"not a profile", ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()]
)
def test_a_profile_that_makes_no_sense_is_left_aside(tmp_path: Path, profile: bytes) -> None:
    Image.new("RGB", (64, 64), (200, 30, 20)).save(tmp_path / "a.png", icc_profile=profile)
    assert prepared(tmp_path / "a.png").getpixel((5, 5)) == (200, 30, 20)


def test_equal_photos_give_equal_bytes(tmp_path: Path) -> None:
    photo = scanned(save_photo(tmp_path / "a.jpg", 300, 200))
    one = prepare_photo(photo, SQUARE, tmp_path / "1" / "a.png")
    two = prepare_photo(photo, SQUARE, tmp_path / "2" / "a.png")
    assert one == two
    assert one.sha256 == hashlib.sha256((tmp_path / "1" / "a.png").read_bytes()).hexdigest()


def test_a_photo_already_prepared_is_left_alone(tmp_path: Path) -> None:
    photo, target = scanned(save_photo(tmp_path / "a.jpg", 300, 200)), tmp_path / "out.png"
    first = prepare_photo(photo, SQUARE, target)
    written = target.stat().st_ino
    assert prepare_photo(photo, SQUARE, target) == first
    assert target.stat().st_ino == written


def test_a_damaged_or_differently_sized_file_is_made_again(tmp_path: Path) -> None:
    photo, target = scanned(save_photo(tmp_path / "a.jpg", 300, 200)), tmp_path / "out.png"
    first = prepare_photo(photo, SQUARE, target)
    target.write_bytes(b"half")
    assert prepare_photo(photo, SQUARE, target) == first
    assert hashlib.sha256(target.read_bytes()).hexdigest() == first.sha256
    other = prepare_photo(photo, Bucket(72, 56), target)
    assert (other.bucket_width, other.sha256 != first.sha256) == (72, True)


def test_a_photo_changed_after_the_plan_is_refused(tmp_path: Path) -> None:
    photo = scanned(save_photo(tmp_path / "a.jpg", 300, 200))
    save_photo(tmp_path / "a.jpg", 300, 201)
    with pytest.raises(UsageError, match="has changed since the plan was made"):
        prepare_photo(photo, SQUARE, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_photos_keep_their_order_and_captions(tmp_path: Path) -> None:
    save_photo(tmp_path / "My Dog (1).jpg")
    (tmp_path / "My Dog (1).txt").write_text("sks dog", "utf-8")
    save_photo(tmp_path / "é.png")
    photos = [scanned(tmp_path / "My Dog (1).jpg"), scanned(tmp_path / "é.png")]
    images = prepare_photos([(photo, SQUARE) for photo in photos], tmp_path / "out")
    assert [image.file for image in images] == ["000-My-Dog-1.png", "001-photo.png"]
    assert [image.caption for image in images] == ["sks dog", None]
    assert all((tmp_path / "out" / image.file).is_file() for image in images)


def test_a_12000_pixel_jpeg_is_prepared_in_little_memory(tmp_path: Path) -> None:
    Image.new("L", (12_000, 12_000), 90).save(tmp_path / "a.jpg", quality=50)
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from orchestrator.dataset.buckets import Bucket\n"
        "from orchestrator.dataset.prepare import prepare_photo\n"
        "from orchestrator.dataset.scan import scan_photo\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "photo, found = scan_photo(Path(sys.argv[1]))\n"
        "assert photo is not None, found\n"
        "prepare_photo(photo, Bucket(512, 512), Path(sys.argv[2]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.jpg"), str(tmp_path / "out.png")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert int(done.stdout) < 100_000, "kilobytes; 144 megapixels decoded whole would be 432,000"
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (512, 512)
