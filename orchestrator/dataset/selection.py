"""From a folder to a set of pictures: scanned, captioned as the set says, without those that are too small for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.dataset.buckets import Sizing
from orchestrator.dataset.captions import captioned
from orchestrator.dataset.placement import sizing_of
from orchestrator.dataset.scan import Finding, Photo, Scan, Severity, scan_folder, scan_tree
from orchestrator.spec import RunSpec
from orchestrator.spec_data import PictureFolder, PictureSet

Scans = Mapping[str, Scan]
"""By the id of the set; those without a folder have none."""


def scan_sets(spec: RunSpec) -> dict[str, Scan]:
    """Every folder of the spec, each read once however many sets share it. Raises UsageError for a caption file that
    cannot be read; what is wrong with pictures is a finding."""
    folders: dict[tuple[Path, bool], Scan] = {}
    scans = {}
    for pictures in spec.picture_sets:
        if isinstance(pictures.source, PictureFolder):
            folder = pictures.source.folder
            key = folder, pictures.subfolders
            if key not in folders:
                folders[key] = scan_tree(folder) if pictures.subfolders else scan_folder(folder)
                if spec.data.dataloader is not None and not folder.exists():
                    folders[key] = _elsewhere(folders[key])
            scan = captioned(folders[key], pictures, spec.prompt_of(pictures))
            scans[pictures.id] = without_small(
                scan, pictures, sizing_of(pictures, spec.train), keep=spec.data.keep_small
            )
    return scans


def _elsewhere(scan: Scan) -> Scan:
    """A folder that a dataloader file names and nobody has: such files are written for the machine that trains."""
    hint = "`--set data.root=/some/folder` looks for it there; or correct the dataloader file"
    return replace(scan, findings=tuple(replace(finding, hint=hint) for finding in scan.findings))


def without_small(scan: Scan, pictures: PictureSet, sizing: Sizing, *, keep: bool = False) -> Scan:
    """The scan without pictures below `min_size`. An error where none is left: a set that vanishes without a word
    changes what is trained."""
    least = pictures.min_size
    if least is None or keep or not scan.photos:
        return scan
    small = [photo for photo in scan.photos if sizing.is_too_small(photo.width, photo.height, least)]
    if not small:
        return scan
    hint = "`--set data.keep_small=true` trains them nevertheless; or lower the least size of the set"
    largest = max(small, key=lambda photo: photo.width * photo.height)
    limit = f"{least:g} megapixels" if sizing.unit == "area" else f"{least:g} pixels"
    all_of_them = len(small) == len(scan.photos)
    whose = f"all {len(small)} pictures" if all_of_them else f"{len(small)} of {len(scan.photos)} pictures"
    message = (
        f"holds {whose} of set `{pictures.id}` below its least size of {limit} "
        f"(the largest of them is {_size(largest)}): they are left out"
    )
    severity = Severity.ERROR if all_of_them else Severity.WARNING
    kept = tuple(photo for photo in scan.photos if photo not in small)
    return replace(scan, photos=kept, findings=(*scan.findings, Finding(severity, scan.folder, message, hint)))


def _size(photo: Photo) -> str:
    return f"{photo.width}×{photo.height}, {photo.width * photo.height / 1e6:.2f} megapixels"
