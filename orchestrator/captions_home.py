"""Captions that the machine wrote, brought home: beside the photos, and into the run's folder for its next machine.

Files of the user's are never replaced. A run that goes on elsewhere has the captions that it began with; one that is
launched anew reads the text files as they are then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from orchestrator.home import RunHome
from orchestrator.plan import Plan
from orchestrator.reporter import Reporter
from orchestrator.whole_file import write_atomically
from remote_trainer import wire

LONGEST = 2000
"""Characters: the machine may be a stranger's, and what it says becomes a file here."""


def remember_photos(home: RunHome, plan: Plan, images: Mapping[str, Sequence[wire.ImageSpec]]) -> None:
    """Writes down which photo each shipped picture is of, where the machine is to describe some. `images`: of each set
    by its id, in the order of its placements."""
    photos = {
        _key(each.id, image.file): str(placed.photo.path)
        for each in plan.sets
        if each.to_caption
        for placed, image in zip(each.placements, images[each.id], strict=True)
    }
    if photos:
        write_atomically(home.photos, json.dumps(photos).encode())


def bring_captions(home: RunHome, told: Sequence[wire.Captioned], reporter: Reporter) -> None:
    """Writes `name.txt` beside each photo that has none, and all of them into the run's folder. Twice is safe, and a
    file that the user removed since is not written again. A folder that cannot be written is told of."""
    if not told:
        return
    photos, known = _read(home.photos), _read(home.captions)
    fresh = {
        key: " ".join(caption.caption.split())[:LONGEST]
        for caption in told
        if (key := _key(caption.dataset, caption.file)) in photos and key not in known
    }
    if not fresh:
        return
    written: list[Path] = []
    for key, text in fresh.items():
        file = Path(photos[key]).with_suffix(".txt")
        if not file.exists():
            try:
                write_atomically(file, f"{text}\n".encode())
            except OSError as error:
                reporter.note(
                    f"{file} cannot be written ({error.strerror or error}): the caption is in {home.captions}"
                )
                continue
            written.append(file)
    write_atomically(home.captions, json.dumps({**known, **fresh}, ensure_ascii=False, indent=1).encode())
    if written:
        reporter.note(f"{len(written)} captions stand beside the photos, for example {written[0]}")


def with_captions_at_home(job: wire.Job, home: RunHome) -> wire.Job:
    """The job, its pictures `described` as an earlier machine of the run did."""
    known = _read(home.captions)
    if not known:
        return job

    def told(each: wire.DatasetSpec) -> wire.DatasetSpec:
        return replace(
            each, images=tuple(replace(image, described=known.get(_key(each.id, image.file))) for image in each.images)
        )

    return replace(job, datasets=tuple(told(each) for each in job.datasets))


def _key(dataset: str, file: str) -> str:
    return f"{dataset}/{file}"


def _read(file: Path) -> dict[str, str]:
    """Nothing for a run without captions of its own, and for one that was picked up on another laptop."""
    with suppress(OSError, ValueError):
        return {str(key): str(value) for key, value in json.loads(file.read_bytes()).items()}
    return {}
