"""`dataset check` and `dataset prepare`: photos before they are trained with."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import json_option
from orchestrator.dataset.checks import DatasetCheck, PhotoCheck, Verdict, check_dataset
from orchestrator.dataset.crops import Crop
from orchestrator.dataset.faces import FaceFinder, face_finder, require_face_finder
from orchestrator.dataset.framing import is_framing_folder, shows_a_person
from orchestrator.dataset.look import Look, look_at
from orchestrator.dataset.overlays import MOST_COMPARED
from orchestrator.dataset.picture import UnreadablePicture
from orchestrator.dataset.scan import Photo, Scan, Severity, scan_folder
from orchestrator.errors import ExitCode, UsageError
from orchestrator.spec import RunSpec
from orchestrator.spec_file import load_spec
from remote_trainer.wire import TrainSpec

_DEFAULT_CROP = Crop.CENTER.value


@click.group(epilog="Example: cloudbooth dataset check photos/")
def dataset() -> None:
    """Check photos before training, and cut them to size."""


def _set_options(function: Any) -> Any:
    """Which photos, and what they are trained at; the same for both verbs."""
    for option in reversed(
        (
            click.argument("what", metavar="FOLDER|SPEC", type=click.Path(path_type=Path)),
            click.option("--resolution", type=int, metavar="PX", help="Trained at so many pixels; 512, or the spec's."),
            click.option("--square", is_flag=True, help="Crop everything to squares instead of buckets of its shape."),
            click.option(
                "--crop",
                type=click.Choice([crop.value for crop in Crop]),
                default=_DEFAULT_CROP,
                show_default=True,
                help="What stays: the middle, where most edges are, or the face (extra `faces`).",
            ),
        )
    ):
        function = option(function)
    return function


@dataset.command(epilog="Example: cloudbooth dataset check photos/ --sheet photos.html")
@_set_options
@click.option("--kind", type=click.Choice(("person", "other")), help="A person's photos get a table of framings.")
@click.option("--sheet", type=click.Path(path_type=Path), metavar="FILE", help="Write a contact sheet, .html or .png.")
@json_option
def check(
    what: Path,
    resolution: int | None,
    square: bool,
    crop: str,
    kind: str | None,
    sheet: Path | None,
    as_json: bool,
) -> int:
    """Say of every photo whether it helps or spoils the training, and why.

    Looks for photos that are too few, alike, blurred, tiny, compressed hard, too long, framed by a border, marked by a
    logo or a date, badly exposed, turned the wrong way or unreadable, and at what the crop leaves of each. Of a person
    it counts how many show the whole body, the upper body and the face, by the names of files and subfolders
    (close-1.jpg, upper/3.jpg). With the extra `faces` it looks for faces, too: they tell framings that no name tells,
    and photos of several people. Changes nothing. Exit code 2 when a file cannot be used.
    """
    folder, train, prompts = _set_of(what, resolution, square)
    scans = _scans(folder)
    finder = require_face_finder() if Crop(crop) is Crop.FACE else face_finder()
    is_person = kind == "person" if kind else _says_a_person(prompts, scans)
    looked = check_dataset(scans, _looks(scans, finder), train, is_person=is_person)
    if sheet is not None:
        from orchestrator.dataset.contact_sheet import write_contact_sheet

        write_contact_sheet(looked, folder, sheet.expanduser().absolute(), Crop(crop))
    if as_json:
        for photo in looked.photos:
            click.echo(json.dumps({"type": "photo", **photo_to_data(photo)}))
        click.echo(json.dumps({"type": "summary", **check_to_data(looked, folder, sheet)}))
    else:
        from rich.console import Console

        from orchestrator.cli.render.dataset import render_check

        render_check(looked, folder, sheet, Console())
    return int(ExitCode.USAGE) if any(scan.errors for scan in scans) else 0


@dataset.command(epilog='Example: cloudbooth dataset prepare photos/ --out prepared/ --caption "sks dog, {name}"')
@_set_options
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FOLDER", help="New, or empty.")
@click.option(
    "--caption",
    metavar="TEXT",
    help="Write this beside every photo without a caption; {name} stands for the words of its file name.",
)
@click.option("--keep-bad", is_flag=True, help="Take photos along that the check calls bad.")
@json_option
def prepare(
    what: Path,
    resolution: int | None,
    square: bool,
    crop: str,
    out: Path,
    caption: str | None,
    keep_bad: bool,
    as_json: bool,
) -> int:
    """Cut and scale photos to what they are trained at, into a folder of their own.

    Every photo becomes a PNG of its bucket's size: upright, in sRGB, without the place, camera and thumbnail that the
    file told. Photos that the check calls bad are left out and named. The folder can be looked through, edited and
    launched like any other; the photos themselves stay as they are. With `--crop face` the cut is made around the
    largest face, which takes the extra `faces`.
    """
    from orchestrator.dataset.prepared_folder import prepare_folder

    folder, train, _ = _set_of(what, resolution, square)
    target = out.expanduser().absolute()
    if target == folder.absolute():
        raise UsageError("--out is the folder of the photos", f"--out {target.with_name(target.name + '-prepared')}")
    finder = require_face_finder() if Crop(crop) is Crop.FACE else None
    scans = _scans(folder)
    looks = _looks(scans, finder)
    looked = check_dataset(scans, looks, train, is_person=True)
    faces = {path: look.faces[0] for path, look in looks.items() if look.faces}
    wanted = [photo for photo in looked.photos if photo.placement and (keep_bad or photo.verdict is not Verdict.BAD)]
    left_out = [photo for photo in looked.photos if photo not in wanted]
    if not wanted:
        raise UsageError(f"{folder} has no photo worth preparing", f"`cloudbooth dataset check {folder}` says why")
    made = prepare_folder([photo.placement for photo in wanted if photo.placement], target, Crop(crop), caption, faces)
    if as_json:
        for file in made:
            click.echo(json.dumps({"type": "prepared", **{key: _plain(value) for key, value in vars(file).items()}}))
        names = [photo.path.name for photo in left_out]
        click.echo(json.dumps({"type": "summary", "folder": str(target), "photos": len(made), "left_out": names}))
    else:
        from rich.console import Console

        from orchestrator.cli.render.dataset import render_prepared

        render_prepared(made, left_out, target, Console())
    return 0


def _set_of(what: Path, resolution: int | None, square: bool) -> tuple[Path, TrainSpec, tuple[str | None, ...]]:
    """Folder, training sizes, prompts. Raises UsageError for a spec that is none, and for a resolution out of range."""
    train, prompts, folder = TrainSpec(), tuple[str | None, ...](), what.expanduser()
    if what.suffix == ".toml":
        spec = load_spec(what)
        train, folder = spec.train, _folder_of_subject(spec, what)
        prompts = (spec.subject.instance_prompt, spec.subject.class_prompt)
    if resolution is not None:
        if resolution < 64 or resolution % 8:
            raise UsageError(f"--resolution must be a multiple of 8 from 64, is {resolution}", "--resolution 512")
        train = replace(train, resolution=resolution)
    return folder, replace(train, aspect_buckets=False) if square else train, prompts


def _folder_of_subject(spec: RunSpec, path: Path) -> Path:
    """Raises UsageError where there are several: each is looked at by itself."""
    shown = [each.pictures for each in spec.picture_sets if each.role == "instance"]
    if len(shown) > 1:
        raise UsageError(f"{path} names {len(shown)} folders of photos", f"give one of them: `{shlex.quote(shown[0])}`")
    return Path(shown[0])


def _scans(folder: Path) -> list[Scan]:
    """Of the folder, and of its subfolders that are named for a framing. Raises UsageError when there is no photo."""
    scans = [scan_folder(folder)]
    if folder.is_dir():
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and is_framing_folder(path.name))
        below = [scan for scan in map(scan_folder, inside) if scan.photos]
        if below:
            known = {scan.folder for scan in below}
            scans[0] = replace(scans[0], findings=tuple(f for f in scans[0].findings if f.path not in known | {folder}))
            scans += [replace(s, findings=tuple(f for f in s.findings if f.path != s.folder)) for s in below]
    about_it = [f for f in scans[0].findings if f.path == folder and f.severity is Severity.ERROR]
    if about_it:
        raise UsageError(f"{folder} {about_it[0].message}", about_it[0].hint)
    return scans


def _says_a_person(prompts: tuple[str | None, ...], scans: list[Scan]) -> bool | None:
    """None where neither prompts nor subfolders say anything."""
    if len(scans) > 1:
        return True
    return any(shows_a_person(prompt) for prompt in prompts) if prompts else None


def _looks(scans: list[Scan], finder: FaceFinder | None) -> dict[Path, Look]:
    looks: dict[Path, Look] = {}
    for photo in (photo for scan in scans for photo in scan.photos):
        try:
            looks[photo.path] = look_at(photo, finder, keep=len(looks) < MOST_COMPARED)
        except UnreadablePicture:  # gone since the scan a moment ago
            continue
    return looks


def photo_to_data(photo: PhotoCheck) -> dict[str, object]:
    """The keys of one `photo` line of `dataset check --json`."""
    placed = photo.placement
    pixels: Photo | None = placed.photo if placed else None
    return {
        "file": str(photo.path),
        "verdict": photo.verdict.value,
        "reasons": [{**vars(reason), "verdict": reason.verdict.value} for reason in photo.reasons],
        "width": pixels.width if pixels else None,
        "height": pixels.height if pixels else None,
        "bucket": [placed.bucket.width, placed.bucket.height] if placed else None,
        "cropped_share": round(placed.cropped_share, 4) if placed else None,
        "caption": pixels.caption if pixels else None,
        "framing": photo.framing.value if photo.framing else None,
        "faces": None if photo.faces is None else len(photo.faces),
    }


def check_to_data(looked: DatasetCheck, folder: Path, sheet: Path | None) -> dict[str, object]:
    """The keys of the last line of `dataset check --json`."""
    return {
        "folder": str(folder),
        "photos": len(looked.photos),
        **{verdict.value: looked.count(verdict) for verdict in Verdict},
        "findings": [
            {"severity": f.severity.value, "file": str(f.path), "message": f.message, "hint": f.hint}
            for f in looked.findings
        ],
        "framing": None
        if looked.framing is None
        else [{**vars(row), "framing": row.framing.value, "missing": row.missing} for row in looked.framing.rows],
        "sheet": None if sheet is None else str(sheet.expanduser().absolute()),
    }


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
