"""One look at a photo's file beyond what `scan` needs: its measures, and what its EXIF says about its orientation."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from orchestrator.dataset.faces import Face, FaceFinder
from orchestrator.dataset.measures import LOOK_PX, Measures, measure
from orchestrator.dataset.picture import decode_rgb, open_picture, orientation, read_content, upright_size
from orchestrator.dataset.scan import Photo

_EXIF_IFD, _PIXEL_X, _PIXEL_Y = 0x8769, 0xA002, 0xA003
_MIRRORED = frozenset({2, 4, 5, 7})


@dataclass(frozen=True)
class Look:
    measures: Measures
    turned_twice: bool
    """EXIF asks for a quarter turn, and the sizes it recorded say that the pixels were turned already."""
    mirrored: bool
    """EXIF asks for a mirror image, which some phones do with their front camera."""
    faces: tuple[Face, ...] | None = None
    """The largest first; None when nobody looked for any."""
    blue: Image.Image | None = None
    """The blue channel of the copy that was looked at, for `overlays`; None when it was not kept."""


def look_at(photo: Photo, find_faces: FaceFinder | None = None, *, keep: bool = False) -> Look:
    """`keep`: the blue channel, 200 kB. Raises UnreadablePicture when the file cannot be decoded any more."""
    with open_picture(read_content(photo.path)) as image:
        tables = getattr(image, "quantization", None)
        turn = orientation(image)
        twice = turn >= 5 and turned_already(image.size, _recorded_size(image))
        width, height = upright_size(image)
        scale = min(1.0, LOOK_PX / max(width, height))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        mirrored = turn in _MIRRORED
        picture = decode_rgb(image, size)
    faces = None if find_faces is None else find_faces(picture)
    return Look(measure(picture, tables), twice, mirrored, faces, picture.getchannel("B") if keep else None)


def turned_already(stored: tuple[int, int], recorded: tuple[int, int] | None) -> bool:
    """Whether the pixels stand across of what the camera recorded: a program turned them and left the EXIF tag."""
    if recorded is None or stored[0] == stored[1] or recorded[0] == recorded[1]:
        return False
    return (stored[0] > stored[1]) != (recorded[0] > recorded[1])


def _recorded_size(image: Image.Image) -> tuple[int, int] | None:
    recorded = image.getexif().get_ifd(_EXIF_IFD)
    width, height = recorded.get(_PIXEL_X), recorded.get(_PIXEL_Y)
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    return None
