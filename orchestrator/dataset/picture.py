"""Opening pictures of unknown origin, and what becomes of them: upright, RGB, 8 bit, sRGB.

The one place that decodes. Memory beside the file's own bytes: a JPEG is decoded at the smallest of the scales 1, 1/2,
1/4, 1/8 that still holds the wanted size, so 12,000 × 12,000 pixels cost some megabytes (a progressive one holds all
its coefficients, up to 6 bytes a pixel); other formats can only be decoded whole, 4 bytes a pixel (twice that with
transparency), at most 800 MB.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from PIL import Image, ImageChops, ImageCms, ImageStat, UnidentifiedImageError, features

from providers.errors import CloudboothError
from providers.installation import installing

MAX_PIXELS = 200_000_000
"""Above it a file is refused before it is decoded: a small file can claim any size."""
MAX_BYTES = 1_000_000_000
"""A file is read whole before it is decoded."""

# Pillow logs about damaged files; without a handler the words would land on the terminal.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_AVIF = "avif" in features.modules and features.check("avif")  # Pillow before 11.3 does not know the word
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", *([".avif"] if _AVIF else []))
)
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", *(["AVIF"] if _AVIF else []))
"""Pillow's decoders that a photo may reach; the many rarer ones are left to nobody's test."""

HEIF_HINT = (
    f"in the checkout: {installing('heif')}; or export it as JPEG: in Photos use File > Export, on an iPhone set "
    "Camera > Formats > Most Compatible"
)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_PLAIN_MODES = frozenset({"1", "L", "RGB", "RGBX", "YCbCr", "CMYK"})
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_DEEP_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of each EXIF orientation upright."""


class UnreadablePicture(CloudboothError):
    """A file that is no picture we can use. The message begins with what it is and does not name the path."""


@cache
def reads_heif() -> bool:
    """Whether the extra `heif` is installed; then Pillow knows the format from here on.

    Its decoder turns pictures upright by itself and says so in the orientation that it hands over.
    """
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


@contextmanager
def open_picture(content: bytes) -> Iterator[Image.Image]:
    """The picture in a file's bytes, its header read, its pixels not yet.

    Raises UnreadablePicture, also for what fails while the caller decodes inside the context: a truncated file shows
    only there.
    """
    if not content:
        raise UnreadablePicture("is empty (0 bytes)", "copy the photo again from where it came from")
    is_heif = content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS
    if is_heif and not reads_heif():
        raise UnreadablePicture("is a HEIC photo, which cannot be read", HEIF_HINT)
    with warnings.catch_warnings():
        # Pillow warns above its limit and raises above twice that: one limit of ours, and always an error.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS
        try:
            with Image.open(io.BytesIO(content), formats=("HEIF",) if is_heif else FORMATS) as image:
                yield image
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise UnreadablePicture(
                f"has more than {MAX_PIXELS // 1_000_000} million pixels", "scale it down to 4000 pixels or less"
            ) from None
        except UnidentifiedImageError:
            raise UnreadablePicture(
                f"is not a picture{_guess(content)}", "open it in a picture viewer; if that fails, leave it out"
            ) from None
        except MemoryError:
            raise UnreadablePicture("does not fit in memory", "scale it down to 4000 pixels or less") from None
        except CloudboothError:
            raise
        except Exception as error:
            # Damaged bytes make Pillow's decoders raise nearly anything: seen were OSError, ValueError, SyntaxError,
            # EOFError, struct.error, TypeError (TIFF) and RuntimeError (AVIF).
            damage = "ends too early (truncated)" if "truncated" in str(error) else f"is damaged ({error})"
            raise UnreadablePicture(damage, "copy the photo again from where it came from") from None
        finally:
            Image.MAX_IMAGE_PIXELS = before


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) as it is looked at, after the EXIF orientation."""
    width, height = image.size
    return (height, width) if orientation(image) >= 5 else (width, height)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation 1…8; 1 where there is none or nonsense, and for TIFF, which Pillow turns by itself."""
    if image.format == "TIFF":
        return 1
    value = image.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def conversion_note(image: Image.Image) -> str:
    """What `decode_rgb` will do to the pixels apart from turning them; empty for plain RGB."""
    if image.mode in _DEEP_MODES:
        return "has 16 bits a channel: scaled to 8"
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        return "has transparent parts: laid on white"
    if image.mode == "CMYK":
        return "is CMYK, for printing: converted to RGB"
    if image.mode == "P":
        return "has a color palette: converted to RGB"
    if image.mode in ("1", "L"):
        return "is black and white"
    return ""


def check_pixels(image: Image.Image) -> None:
    """Decodes to the end of the file, as small as the format allows. Raises UnreadablePicture as `decode_rgb` does."""
    _require_known_mode(image)
    image.draft(None, (1, 1))
    image.load()


def decode_rgb(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The first frame: upright, mode RGB, scaled (Lanczos) to exactly `size` = upright (width, height) in pixels.

    Colors become sRGB where a usable ICC profile says what they were. Raises UnreadablePicture for a color mode that
    nobody can convert faithfully.
    """
    _require_known_mode(image)
    turn = orientation(image)
    stored = (size[1], size[0]) if turn >= 5 else size
    # Twice the size leaves Lanczos enough to work with where the JPEG decoder reduces. The box is the part of the
    # decoded pixels that the picture fills: its sides need not be multiples of the reduction.
    drafted = image.draft(None, (2 * stored[0], 2 * stored[1]))
    image.load()
    profile = image.info.get("icc_profile")
    # Scaled before turned and converted: every copy after that is small.
    small = _scalable(image).resize(stored, Image.Resampling.LANCZOS, drafted[1] if drafted else None, 3.0)
    if turn in _TURNS:
        small = small.transpose(_TURNS[turn])
    if "A" in small.getbands():
        rgba = small.convert("RGBA")
        flat = Image.new("RGB", rgba.size, "white")
        flat.paste(_to_srgb(rgba.convert("RGB"), profile), mask=rgba.getchannel("A"))
        return flat
    return _to_srgb(small, profile)


def has_transparency(image: Image.Image) -> bool:
    """Whether the picture can be transparent anywhere; none of its pixels need be."""
    return image.mode in _ALPHA_MODES or "transparency" in image.info


def decode_rgba(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """As `decode_rgb`, but with the transparency, and the colors that lie behind it, in mode RGBA.

    Both are scaled by themselves: transparent pixels lend their neighbors as much color as opaque ones do.
    """
    _require_known_mode(image)
    whole = image.convert("RGBA")
    turn = orientation(image)
    stored = (size[1], size[0]) if turn >= 5 else size
    colors = _to_srgb(whole.convert("RGB"), image.info.get("icc_profile"))
    small = colors.resize(stored, Image.Resampling.LANCZOS, None, 3.0)
    small.putalpha(whole.getchannel("A").resize(stored, Image.Resampling.LANCZOS, None, 3.0))
    return small.transpose(_TURNS[turn]) if turn in _TURNS else small


def _require_known_mode(image: Image.Image) -> None:
    if image.mode not in _PLAIN_MODES | _ALPHA_MODES | _DEEP_MODES | {"P"}:
        raise UnreadablePicture(
            f"has the color mode {image.mode}, which cannot be converted", "export it as 8-bit RGB JPEG or PNG"
        )


def _scalable(image: Image.Image) -> Image.Image:
    """In a mode whose values can be averaged: L, RGB, CMYK or RGBA."""
    if image.mode in _DEEP_MODES:
        return _eight_bit(image)
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """16 bits to 8 by dividing by 257, rounded: Pillow's own conversion clips everything above 255 to white."""
    deep = image.convert("I")
    extrema = deep.getextrema()
    top = max(65535.0, float(extrema[1]) if isinstance(extrema[1], (int, float)) else 0.0)
    scale = 255.0 / top
    return deep.point(lambda value: value * scale + 0.5).convert("L")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Colors by the embedded profile; a profile that is broken or made for another color space is left aside."""
    if profile:
        with suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = source.profile.xcolor_space.strip()
            if space == {"RGB": "RGB", "CMYK": "CMYK", "L": "GRAY"}.get(image.mode):
                converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
                if converted is not None:
                    return converted
    return image.convert("RGB")


def is_srgb(profile: bytes | None, mode: str) -> bool:
    """Whether leaving the ICC profile aside changes a color of a picture of that mode by a rounding error at most."""
    if not profile:
        return True
    step = 15
    levels = range(0, 256, step)
    if mode == "L":
        sample = Image.frombytes("L", (len(levels), 1), bytes(levels))
    else:
        cube = bytes(value for red in levels for green in levels for blue in levels for value in (red, green, blue))
        sample = Image.frombytes("RGB", (len(levels), len(levels) ** 2), cube)
    difference = ImageChops.difference(_to_srgb(sample, profile), sample.convert("RGB"))
    return all(high <= 1 for _, high in ImageStat.Stat(difference).extrema)


def _guess(content: bytes) -> str:
    """` but …` when the first bytes say what a file with a picture's name really is."""
    head = content[:512]
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return " but a web page"
    if head.startswith(b"version https://git-lfs"):
        return " but a Git LFS pointer"
    if head.startswith(b"%PDF"):
        return " but a PDF"
    if b"\0" not in head:
        with suppress(UnicodeDecodeError):
            head.decode("utf-8")
            return " but text"
    return ""


def is_picture(path: Path) -> bool:
    """By its content, whatever it is called; its pixels are not decoded."""
    try:
        with open_picture(read_content(path)):
            return True
    except UnreadablePicture:
        return False


def read_content(path: Path) -> bytes:
    """A file's bytes. Raises UnreadablePicture when the system refuses, and for what cannot be a photo by its size."""
    try:
        if path.exists() and not path.is_file():
            raise UnreadablePicture("is no regular file", "leave it out")
        if path.stat().st_size > MAX_BYTES:
            raise UnreadablePicture(f"is larger than {MAX_BYTES // 1_000_000_000} GB", "export it as JPEG")
        return path.read_bytes()
    except FileNotFoundError:
        raise UnreadablePicture("is gone, or a link to nothing", "copy the photo again, or remove the link") from None
    except PermissionError:
        raise UnreadablePicture("may not be read by you", f"`chmod u+r '{path}'`") from None
    except OSError as error:
        raise UnreadablePicture(f"cannot be read: {error.strerror}", "copy the photo again") from None
