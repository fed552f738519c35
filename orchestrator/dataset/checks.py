"""What spoils a training set, photo by photo: a verdict, and every reason with what can be done. Pure.

    scan + looks + training size  ->  DatasetCheck

Limits were set on photographs scaled to 512 pixels: sharp ones have a Laplacian variance of 400 and more in their
sharpest part, the same ones after a Gaussian blur of one pixel 25 to 140, of two pixels 5 to 15.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from orchestrator.dataset.buckets import MAX_ASPECT
from orchestrator.dataset.faces import Face
from orchestrator.dataset.framing import Framing, FramingTable, framing_by_face, framing_of, framing_table
from orchestrator.dataset.look import Look
from orchestrator.dataset.measures import are_alike
from orchestrator.dataset.overlays import marked
from orchestrator.dataset.placement import Placement, place_photos, sizing_of_run
from orchestrator.dataset.scan import Finding, Photo, Scan, Severity
from remote_trainer.wire import TrainSpec

BLURRED, SOFT = 20.0, 60.0
"""Laplacian variance of the sharpest part."""
ENLARGED = 1.15
"""Above it the trainer sees invented pixels; a few percent nobody sees."""
MUCH_ENLARGED = 2.0
COMPRESSED_QUALITY = 60
COMPRESSED_MATTERS_ABOVE = 0.5
"""A photo that is scaled down more than to half of its size loses its blocks on the way."""
BORDER_SHARE = 0.02
DARK, BRIGHT, FLAT = 30.0, 235.0, 12.0
CROPPED_SHARE = 0.15
SECOND_FACE = 0.4
"""Of the largest one's height: a smaller second face is somebody in the background."""


class Verdict(Enum):
    GOOD = "good"
    DOUBTFUL = "doubtful"
    """Training works with it, and better without it or with another."""
    BAD = "bad"
    """It cannot be used, or it spoils what is learned."""


@dataclass(frozen=True)
class Reason:
    code: str
    """Stable, for scripts: `blurred`, `alike`, …"""
    verdict: Verdict
    message: str
    """Continues the file's name."""
    hint: str


@dataclass(frozen=True)
class PhotoCheck:
    path: Path
    verdict: Verdict
    """The worst of the reasons'."""
    reasons: tuple[Reason, ...]
    placement: Placement | None = None
    """None for a file that cannot be used."""
    framing: Framing | None = None
    faces: tuple[Face, ...] | None = None
    """The largest first; None when nobody looked for any."""


@dataclass(frozen=True)
class DatasetCheck:
    photos: tuple[PhotoCheck, ...]
    """In the order of the scan; files that cannot be used come last."""
    findings: tuple[Finding, ...]
    """About the folder and about files that are no photos."""
    framing: FramingTable | None
    """Of a person's photos."""

    def count(self, verdict: Verdict) -> int:
        return sum(photo.verdict is verdict for photo in self.photos)


def check_dataset(
    scans: Sequence[Scan], looks: Mapping[Path, Look], train: TrainSpec, *, is_person: bool | None
) -> DatasetCheck:
    """`scans`: of the folder, and after it of those of its subfolders that belong to the set. `is_person`: None where
    nobody said; then faces in most of the photos do."""
    folder = scans[0].folder
    photos = [photo for scan in scans for photo in scan.photos]
    twins = alike(photos, looks)
    marks = marked({p: look.blue for p, look in looks.items() if look.blue is not None and p not in twins})
    is_person = mostly_faces(looks) if is_person is None else is_person
    warned = {f.path: f for scan in scans for f in scan.findings if f.severity is Severity.WARNING}
    checked = []
    for placed in place_photos(photos, sizing_of_run(train)):
        path = placed.photo.path
        look = looks.get(path)
        faces = None if look is None else look.faces
        reasons = [*_reasons(placed, look, twins.get(path), warned.get(path)), *_about_faces(faces or (), is_person)]
        reasons += [_about_mark(len(marks))] if path in marks else []
        framing = framing_of(path, folder) or (framing_by_face(faces[0].height) if faces and is_person else None)
        checked.append(PhotoCheck(path, _worst(reasons), tuple(reasons), placed, framing, faces))
    findings = [finding for scan in scans for finding in scan.findings]
    known = {photo.path for photo in photos}
    broken = [f for f in findings if f.severity is Severity.ERROR and f.path not in {s.folder for s in scans}]
    for finding in broken:
        unusable = Reason("unusable", Verdict.BAD, finding.message, finding.hint)
        checked.append(PhotoCheck(finding.path, Verdict.BAD, (unusable,)))
    rest = tuple(f for f in findings if f not in broken and f.path not in known)
    table = framing_table([photo.framing for photo in checked if photo.placement]) if is_person else None
    return DatasetCheck(tuple(checked), rest, table)


def alike(photos: Sequence[Photo], looks: Mapping[Path, Look]) -> dict[Path, tuple[Photo, bool]]:
    """Photo → the earlier one that shows the same, and whether the files are equal byte by byte."""
    found: dict[Path, tuple[Photo, bool]] = {}
    for index, photo in enumerate(photos):
        for earlier in photos[:index]:
            same_file = photo.sha256 == earlier.sha256
            if same_file or _alike(looks.get(photo.path), looks.get(earlier.path)):
                found[photo.path] = (earlier, same_file)
                break
    return found


def _alike(one: Look | None, other: Look | None) -> bool:
    return one is not None and other is not None and are_alike(one.measures.likeness, other.measures.likeness)


def _worst(reasons: Sequence[Reason]) -> Verdict:
    order = list(Verdict)
    return max((reason.verdict for reason in reasons), key=order.index, default=Verdict.GOOD)


def _reasons(
    placed: Placement, look: Look | None, twin: tuple[Photo, bool] | None, warned: Finding | None
) -> Iterator[Reason]:
    yield from _about_size(placed)
    if twin is not None:
        yield _about_twin(*twin)
    elif warned is not None:
        yield Reason("scan", Verdict.DOUBTFUL, warned.message, warned.hint)
    if look is not None:
        yield from _about_look(placed, look)


def _about_size(placed: Placement) -> Iterator[Reason]:
    photo, bucket = placed.photo, placed.bucket
    enlarged = f"{photo.width}×{photo.height} pixels are enlarged {placed.enlargement:.1f} times to {bucket}"
    if placed.enlargement > MUCH_ENLARGED:
        hint = "use the original instead of a thumbnail or a chat's copy"
        yield Reason("tiny", Verdict.BAD, f"is tiny: {enlarged}", hint)
    elif placed.enlargement > ENLARGED:
        hint = "use the original, or train at a smaller resolution"
        yield Reason("small", Verdict.DOUBTFUL, f"is small: {enlarged}", hint)
    aspect = max(photo.width / photo.height, photo.height / photo.width)
    if aspect > MAX_ASPECT:
        message = f"is {aspect:.1f} times as long as wide: {placed.cropped_share:.0%} of it is cropped away"
        yield Reason("long", Verdict.DOUBTFUL, message, "crop it around the subject, to 2:1 at most")
    elif placed.cropped_share > CROPPED_SHARE:
        message = f"loses {placed.cropped_share:.0%} at its edges"
        hint = "crop it around the subject: `cloudbooth dataset prepare` with `--crop smart`"
        yield Reason("cropped", Verdict.DOUBTFUL, message, hint)


def mostly_faces(looks: Mapping[Path, Look]) -> bool:
    """Whether more than half of the photos show a face. False where nobody looked for any."""
    return 2 * sum(bool(look.faces) for look in looks.values()) > len(looks)


def _about_faces(faces: Sequence[Face], is_person: bool) -> Iterator[Reason]:
    if is_person:
        large = sum(face.height >= SECOND_FACE * faces[0].height for face in faces)
        if large > 1:
            message = f"shows {large} faces: the model cannot know which one is meant"
            yield Reason("several", Verdict.DOUBTFUL, message, "cut it to the one, or leave it out")
    elif faces:
        message = "shows a person's face, too, which is learned with the subject"
        yield Reason(
            "several", Verdict.DOUBTFUL, message, "cut it to the subject; `--kind person` if it is the subject"
        )


def _about_mark(photos: int) -> Reason:
    message = f"carries a mark that stands at one place in {photos} photos: it is learned before all else"
    return Reason("watermark", Verdict.DOUBTFUL, message, "cut it away, or use photos without it")


def _about_twin(earlier: Photo, same_file: bool) -> Reason:
    if same_file:
        message = f"is the same file as {earlier.path.name}: it counts twice"
        return Reason("same", Verdict.BAD, message, "remove one of the two")
    message = f"shows nearly the same as {earlier.path.name}: what both have counts twice, background included"
    return Reason("alike", Verdict.DOUBTFUL, message, "keep the better one")


def _about_look(placed: Placement, look: Look) -> Iterator[Reason]:
    seen = look.measures
    if seen.sharpness < BLURRED:
        message = "is blurred: nothing in it is sharp"
        yield Reason("blurred", Verdict.BAD, message, "leave it out: the model learns the blur")
    elif seen.sharpness < SOFT:
        message = "is soft: its sharpest part is hardly sharp"
        yield Reason("soft", Verdict.DOUBTFUL, message, "look at it at full size; take a sharper one if there is one")
    quality = seen.jpeg_quality
    if quality is not None and quality < COMPRESSED_QUALITY and placed.enlargement > COMPRESSED_MATTERS_ABOVE:
        message = f"is compressed hard (JPEG quality {quality}): its blocks are learned, too"
        yield Reason("compressed", Verdict.DOUBTFUL, message, "use the original: messengers compress what they send")
    if seen.borders.share > BORDER_SHARE:
        message = f"has a border: {seen.borders.share:.0%} of it is a flat frame"
        yield Reason("border", Verdict.DOUBTFUL, message, "crop the frame away: the model paints it otherwise")
    if seen.contrast < FLAT:
        yield Reason("flat", Verdict.DOUBTFUL, "has hardly any contrast", "check that it shows what it should")
    if not DARK <= seen.brightness <= BRIGHT:
        what = "dark" if seen.brightness < DARK else "bright"
        yield Reason("exposure", Verdict.DOUBTFUL, f"is very {what}", "correct its exposure, or take another")
    if look.turned_twice:
        message = "lies on its side: its pixels were turned by a program that left the EXIF note to turn them"
        yield Reason("turned", Verdict.BAD, message, "open it, turn it upright and save it anew")
    if look.mirrored:
        message = "is a mirror image by its EXIF note, and is mirrored back: letters should read right"
        yield Reason("mirrored", Verdict.DOUBTFUL, message, "look at it on the contact sheet")
