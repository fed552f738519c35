"""Looking at a folder of photos: what is usable, and what is wrong with the rest.

Reads and decodes every photo once, writes nothing, needs no network. All findings are collected, so that a person
repairs a folder in one go.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from orchestrator.dataset.picture import (
    HEIF_HINT,
    HEIF_SUFFIXES,
    SUFFIXES,
    UnreadablePicture,
    check_pixels,
    conversion_note,
    has_transparency,
    is_picture,
    open_picture,
    orientation,
    read_content,
    reads_heif,
    upright_size,
)
from orchestrator.errors import UsageError

MIN_SIDE = 64
"""Pixels. Below it no training size makes sense of a photo."""
FEW_PHOTOS = 5
VERY_FEW_PHOTOS = 3
MOST_SUBFOLDERS = 500
"""So many are looked into for photos that are not where they were said to be."""

_COMPANIONS = {".aae", ".mov", ".mp4", ".xmp", ".json"}
"""What phones and photo programs put beside a photo under its name: edits, a second of film, notes."""
_RAW_SUFFIXES = {".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"}


class Severity(Enum):
    ERROR = "error"
    """The folder cannot be used while this stands."""
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    severity: Severity
    path: Path
    message: str
    """Continues the file's name: `is empty (0 bytes)`."""
    hint: str = ""


@dataclass(frozen=True)
class Photo:
    path: Path
    width: int
    height: int
    """Pixels as looked at, after the EXIF orientation."""
    mode: str
    """Pillow's, of the file: RGB, CMYK, I;16, …"""
    bytes: int
    sha256: str
    """Of the file."""
    caption: str | None = None
    """The text of `name.txt` beside it, or what else its set calls it; None: the prompt."""
    has_transparency: bool = False


@dataclass(frozen=True)
class Scan:
    folder: Path
    photos: tuple[Photo, ...]
    """The usable ones, by name."""
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)


def scan_folder(folder: Path) -> Scan:
    """Every photo directly in `folder`, and every finding. Raises nothing: a missing folder is a finding, too."""
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except FileNotFoundError:
        return _unusable(folder, "does not exist", _closest_folder(folder))
    except NotADirectoryError:
        return _unusable(folder, "is a file, not a folder", f"give the folder that holds the photos: {folder.parent}")
    except PermissionError:
        return _unusable(folder, "may not be read by you", f"`chmod u+rx '{folder}'`")
    except OSError as error:
        return _unusable(folder, f"cannot be read: {error.strerror}", "give the folder that holds the photos")

    photos: list[Photo] = []
    findings: list[Finding] = []
    for path in entries:
        if path.name.startswith("."):
            continue
        if path.is_dir():
            findings += _look_into_subfolder(path)
        elif path.suffix.lower() in SUFFIXES | HEIF_SUFFIXES:
            photo, about_it = scan_photo(path)
            photos += [photo] if photo else []
            findings += about_it
        else:
            findings += _other_file(path, entries)
    findings += _duplicates(photos)
    findings += _count(folder, photos, findings)
    order = list(Severity)
    findings.sort(key=lambda finding: order.index(finding.severity))
    return Scan(folder, tuple(photos), tuple(findings))


def scan_tree(folder: Path) -> Scan:
    """As `scan_folder`, with the photos of all folders below, hidden ones left out; by folder, then by name."""
    inside = [Path(root) for root, _, _ in itertools.islice(os.walk(folder), MOST_SUBFOLDERS)]
    visible = [path for path in inside if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if len(visible) < 2:
        return scan_folder(folder)
    scans = [scan_folder(path) for path in sorted(visible)]
    photos = [photo for scan in scans for photo in scan.photos]
    about_folders = set(visible)
    findings = [finding for scan in scans for finding in scan.findings if finding.path not in about_folders]
    findings += [finding for finding in _duplicates(photos) if finding not in findings]
    findings += _count(folder, photos, findings)
    order = list(Severity)
    findings.sort(key=lambda finding: order.index(finding.severity))
    return Scan(folder, tuple(photos), tuple(findings))


def scan_photo(path: Path) -> tuple[Photo | None, list[Finding]]:
    """One file, decoded to the end: the photo when it is usable, and what there is to say about it."""
    findings: list[Finding] = []

    def find(severity: Severity, message: str, hint: str = "") -> None:
        findings.append(Finding(severity, path, message, hint))

    if path.suffix.lower() in HEIF_SUFFIXES and not reads_heif():
        find(Severity.ERROR, "is a HEIC photo, which cannot be read", HEIF_HINT)
        return None, findings
    try:
        content = read_content(path)
        with open_picture(content) as image:
            width, height = upright_size(image)
            mode, transparent = image.mode, has_transparency(image)
            turned, note = orientation(image) != 1, conversion_note(image)
            # MPO is a JPEG with a second view behind it (phones write it), not a film.
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            check_pixels(image)
    except UnreadablePicture as error:
        find(Severity.ERROR, error.message, error.hint)
        return None, findings
    if min(width, height) < MIN_SIDE:
        find(
            Severity.ERROR,
            f"is too small ({width}×{height} pixels, at least {MIN_SIDE} a side)",
            "use the original photo instead of a thumbnail, or leave it out",
        )
        return None, findings
    if frames > 1:
        find(Severity.WARNING, f"has {frames} frames: only the first is used", "save the frame you want as a PNG")
    if turned:
        find(Severity.NOTE, "is turned upright as its EXIF orientation says")
    if note:
        find(Severity.NOTE, note)
    caption, about_caption = _caption(path)
    findings += about_caption
    sha256 = hashlib.sha256(content).hexdigest()
    return Photo(path, width, height, mode, len(content), sha256, caption, transparent), findings


def require_usable(*scans: Scan) -> None:
    """Raises one UsageError that names every erroneous file with its hint; returns when there is none."""
    errors = [finding for scan in scans for finding in scan.errors]
    if not errors:
        return
    if len(errors) == 1:
        raise UsageError(f"{errors[0].path} {errors[0].message}", errors[0].hint)
    lines = [f"{len(errors)} files cannot be used"]
    lines += [f"  {error.path} {error.message}" + (f": {error.hint}" if error.hint else "") for error in errors]
    raise UsageError("\n".join(lines), "repair these files or move them out of the folder; nothing has been started")


# ---- findings ------------------------------------------------------------------------------------------------------


def _unusable(folder: Path, message: str, hint: str) -> Scan:
    return Scan(folder, (), (Finding(Severity.ERROR, folder, message, hint),))


def _closest_folder(folder: Path) -> str:
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    return f"the nearest folder that exists is {there}"


def _look_into_subfolder(folder: Path) -> list[Finding]:
    try:
        held = sum(1 for name in os.listdir(folder) if Path(name).suffix.lower() in SUFFIXES | HEIF_SUFFIXES)
    except OSError:
        return []
    if not held:
        return []
    message = f"is a subfolder with {held} picture{'s' if held > 1 else ''}: not used"
    return [Finding(Severity.NOTE, folder, message, "move the pictures up, or give this folder")]


def _nearest_photos(folder: Path) -> Path | None:
    """The subfolder, up to three levels down, in which the most pictures lie; hidden ones do not count."""
    best: tuple[int, Path] | None = None
    for root, folders, files in itertools.islice(os.walk(folder), MOST_SUBFOLDERS):
        depth = len(Path(root).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < 3 else []
        held = sum(1 for name in files if Path(name).suffix.lower() in SUFFIXES | HEIF_SUFFIXES)
        if held > (best[0] if best else 0):
            best = held, Path(root)
    return best[1] if best else None


def _other_file(path: Path, entries: list[Path]) -> list[Finding]:
    suffix = path.suffix.lower()
    has_photo = any(other.stem == path.stem and other.suffix.lower() in SUFFIXES | HEIF_SUFFIXES for other in entries)
    if suffix in _COMPANIONS and has_photo:
        return []
    if suffix == ".txt":
        if has_photo:
            return []
        return [Finding(Severity.NOTE, path, "is a caption without a photo of the same name: not used")]
    if suffix in _RAW_SUFFIXES:
        return [Finding(Severity.WARNING, path, "is a camera raw file: not used", "export it as JPEG")]
    if not suffix and is_picture(path):
        hint = "give it the ending of its format, .jpg for example"
        return [Finding(Severity.WARNING, path, "is a picture without an ending: not used", hint)]
    return [Finding(Severity.NOTE, path, "is not a picture: not used")]


def _caption(photo: Path) -> tuple[str | None, list[Finding]]:
    path = photo.with_suffix(".txt")
    try:
        text = " ".join(path.read_text("utf-8-sig").split())
    except FileNotFoundError:
        return None, []
    except (UnicodeDecodeError, OSError):
        return None, [Finding(Severity.ERROR, path, "is a caption that is not UTF-8 text", "save it as UTF-8")]
    if not text:
        return None, [Finding(Severity.WARNING, path, "is an empty caption: the prompt of the spec is used")]
    return text, []


def _duplicates(photos: list[Photo]) -> Iterator[Finding]:
    first: dict[str, Photo] = {}
    for photo in photos:
        twin = first.setdefault(photo.sha256, photo)
        if twin is not photo:
            message = f"is the same file as {twin.path.name}: it counts twice in training"
            yield Finding(Severity.WARNING, photo.path, message, "remove one of the two")


def _count(folder: Path, photos: list[Photo], findings: list[Finding]) -> Iterator[Finding]:
    several = "5 to 20 photos from different sides, in different places, are usual"
    if not photos:
        if any(finding.severity is Severity.ERROR for finding in findings):
            return
        if inside := _nearest_photos(folder):
            held = f"holds no photos itself: they are in {inside.relative_to(folder)}"
            yield Finding(Severity.ERROR, folder, held, f"give that folder: `{shlex.quote(str(inside))}`")
            return
        raw = any("raw" in finding.message for finding in findings)
        known = readable(reads_heif())
        message = "holds no photos in a format that can be read" if findings else "is empty"
        yield Finding(Severity.ERROR, folder, message, "export them as JPEG" if raw else known)
    elif len(photos) < FEW_PHOTOS:
        count = "a single photo" if len(photos) == 1 else f"only {len(photos)} photos"
        repeated = "it" if len(photos) == 1 else "them"
        very_few = len(photos) < VERY_FEW_PHOTOS
        risk = f"the model will mostly repeat {repeated}" if very_few else "more make it more flexible"
        yield Finding(Severity.WARNING, folder, f"holds {count}: {risk}", several)


def readable(heif: bool) -> str:
    """Which files are photos here, as a hint. `heif`: whether the extra of that name is installed."""
    known = ", ".join(sorted(suffix[1:] for suffix in (SUFFIXES | HEIF_SUFFIXES if heif else SUFFIXES)))
    return f"readable are {known}" if heif else f"readable are {known}, and with the extra `[heif]` heic, heif, hif"
