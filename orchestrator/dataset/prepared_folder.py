"""Photos cut and scaled to what they are trained at, as a folder of their own that a person can look through and edit.

The files hold pixels alone: no place, no camera, no thumbnail. A folder made this way is `data.instance` of a run like
any other; its photos then need no scaling and no cropping.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from orchestrator.dataset.crops import Crop, crop_to
from orchestrator.dataset.faces import Face
from orchestrator.dataset.placement import Placement
from orchestrator.dataset.prepare import fitted, png
from orchestrator.errors import UsageError
from orchestrator.whole_file import write_atomically

NAME = "{name}"
"""Stands in a caption for the words of the file's name."""


@dataclass(frozen=True)
class PreparedPhoto:
    source: Path
    file: Path
    width: int
    height: int
    """Pixels, of `file`."""
    caption: str | None


def prepare_folder(
    placed: Sequence[Placement],
    out: Path,
    crop: Crop,
    caption: str | None,
    faces: Mapping[Path, Face] = MappingProxyType({}),
) -> list[PreparedPhoto]:
    """Writes `STEM.png` for every photo, and `STEM.txt` where it has a caption or `caption` is given.

    A photo's own caption file wins over `caption`, in which `{name}` stands for the words of its file name. `faces`:
    the largest of each photo that has one. Raises UsageError when `out` holds anything already, cannot be written, or a
    photo has changed since it was scanned.
    """
    _require_empty(out)
    names = _names(placed)
    made = []
    for each, name in zip(placed, names, strict=True):
        picture = crop_to(fitted(each.photo, each.bucket), each.bucket, crop, faces.get(each.photo.path))
        text = each.photo.caption or (None if caption is None else caption_for(each.photo.path, caption))
        file = out / f"{name}.png"
        try:
            write_atomically(file, png(picture))
            if text is not None:
                write_atomically(file.with_suffix(".txt"), f"{text}\n".encode())
        except OSError as error:
            raise UsageError(f"{file} cannot be written: {error.strerror or error}", "choose another --out") from None
        made.append(PreparedPhoto(each.photo.path, file, picture.width, picture.height, text))
    return made


def caption_for(photo: Path, caption: str) -> str:
    """`sks dog on_a-beach (2).jpg` gives `{name}` the words `sks dog on a beach`."""
    words = re.sub(r"[_\-]+", " ", photo.stem)
    words = re.sub(r"[\s(]*\d*\)?$", "", words)
    return " ".join(caption.replace(NAME, words).split()).strip(" ,")


def _names(placed: Sequence[Placement]) -> list[str]:
    """Stems, with a number where two photos share one (`a.jpg` and `a.heic`); case does not tell files apart."""
    taken: set[str] = set()
    names = []
    for each in placed:
        stem = each.photo.path.stem
        tries = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        names.append(next(name for name in tries if name.lower() not in taken))
        taken.add(names[-1].lower())
    return names


def _require_empty(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise UsageError(f"{out} holds files already", f"`--out {out}-2`, or empty it first")
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror or error}", "choose another --out") from None
