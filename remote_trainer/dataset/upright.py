"""Pictures of unknown origin as training sees them: upright, RGB, 8 bit, sRGB, with nothing beside the pixels.

What the laptop does to photos before they travel is done here to those that a machine fetches by itself.
"""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

from PIL import Image

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of each EXIF orientation upright."""
_ORIENTATION = 0x0112
_HARMLESS = frozenset({
    "jfif", "jfif_version", "jfif_unit", "jfif_density", "adobe", "adobe_transform", "progressive", "progression",
    "dpi", "gamma", "srgb", "chromaticity", "interlace", "compression",
})  # fmt: skip
"""Of what Pillow reads beside the pixels: how a file is built, and nothing of where it comes from."""


def is_plain(image: Image.Image) -> bool:
    """Whether the file can stay as it is: RGB or gray, and nothing in it beside the pixels."""
    return image.mode in ("RGB", "L") and not set(image.info) - _HARMLESS and not image.getexif()


def upright_rgb(image: Image.Image) -> Image.Image:
    """A new picture of the pixels alone, mode RGB. What is transparent is laid on white, 16 bits become 8, and colors
    become sRGB where a usable profile says what they were. Raises as Pillow does for damaged files.
    """
    image.load()
    # Pillow turns TIFF by itself.
    turn = 1 if image.format == "TIFF" else image.getexif().get(_ORIENTATION, 1)
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value / 257.0 + 0.5).convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        flat = Image.new("RGB", rgba.size, "white")
        flat.paste(_to_srgb(rgba.convert("RGB"), profile), mask=rgba.getchannel("A"))
    else:
        plain = image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")
        flat = _to_srgb(plain, profile)
    if turn in TURNS:
        flat = flat.transpose(TURNS[turn])
    return Image.frombytes("RGB", flat.size, flat.tobytes())


def _to_srgb(image: Image.Image, profile: Any) -> Image.Image:
    """A profile that is broken or made for another color space is left aside."""
    if profile:
        from PIL import ImageCms

        with suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if source.profile.xcolor_space.strip() == {"RGB": "RGB", "CMYK": "CMYK", "L": "GRAY"}.get(image.mode):
                converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
                if converted is not None:
                    return converted
    return image.convert("RGB")
