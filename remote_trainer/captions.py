"""Captions that the host writes: which pictures want one, what it says, and where it is kept.

A caption is the set's prompt, a comma, and what the captioner says: the subject's name stands in every one, where a
model heeds it most. Descriptions are kept by the picture's hash, so that an interrupted run goes on where it was, and
the run's checkpoints carry them: another machine's captioner might put it in other words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from . import wire
from .captioner import Captioner
from .dataset.pictures import Picture, training_set, whole_picture
from .run_folder import write_atomically
from .stopping import ShouldStop, check
from .wire import Captioned, DatasetSpec, Job, PhaseStarted

FOLDER = "captions"
"""Of the run: `<sha256 of the picture>.txt`."""

Emit = Callable[[wire.Event], None]
Texts = Mapping[str, str]
"""Descriptions, without prompt, by the picture's sha256."""


def caption(prompt: str, text: str) -> str:
    """The rule: the prompt stands first, whatever was seen. A picture that nothing was said of has the prompt alone."""
    return f"{prompt}, {text}" if text else prompt


def write_captions(
    job: Job, run_folder: Path, known: Texts, device: torch.device, emit: Emit, should_stop: ShouldStop
) -> dict[str, str]:
    """Descriptions of all pictures that want a caption, by their sha256.

    known: those that a checkpoint brought. Others came with the job or are in the run's folder, and the rest is written
    now, in batches, each on the disk before the next. Loads the captioner only if something is missing, and lets it go.
    Raises TrainingFailed as `Captioner` and `whole_picture` do, and StopRequested between batches.
    """
    wanted = _wanted(job, run_folder)
    if not wanted:
        return {}
    folder = run_folder / FOLDER
    folder.mkdir(exist_ok=True)
    known = {**_sent_along(job), **known}
    texts = {sha256: text for sha256 in wanted if (text := known.get(sha256, _read(folder, sha256))) is not None}
    for sha256, text in texts.items():
        _keep(folder, sha256, text)
    missing = [sha256 for sha256 in wanted if sha256 not in texts]
    if missing:
        emit(PhaseStarted("captions", f"{len(missing)} of {len(wanted)} pictures, by {job.captioner}"))
        with Captioner(job.captioner or "", device) as captioner:
            for first in range(0, len(missing), captioner.batch):
                check(should_stop)
                batch = missing[first : first + captioner.batch]
                said = captioner.describe([whole_picture(wanted[sha256]) for sha256 in batch])
                for sha256, text in zip(batch, said, strict=True):
                    _keep(folder, sha256, text)
                    texts[sha256] = text
    return texts


def _wanted(job: Job, run_folder: Path) -> dict[str, Picture]:
    """By their hash: equal pictures are described once, in whatever sets they are."""
    found = {}
    for each in training_set(job, run_folder).sets:
        if each.spec.captioned:
            for image, picture in zip(each.spec.images, each.pictures, strict=False):
                if image.caption is None:
                    found[image.sha256] = picture
    return found


def _sent_along(job: Job) -> dict[str, str]:
    """What the run's earlier machine wrote and the laptop has, prompts taken off again."""
    return {
        image.sha256: image.described.removeprefix(each.prompt).removeprefix(", ")
        for each in job.datasets
        for image in each.images
        if image.described is not None
    }


def with_captions(job: Job, texts: Texts, emit: Emit) -> Job:
    """The job, every picture that wants a caption with its own, each announced; `texts` as `write_captions` returns."""

    def told(spec: DatasetSpec) -> DatasetSpec:
        if not spec.captioned:
            return spec
        images = []
        for image in spec.images:
            if image.caption is None:
                image = replace(image, caption=caption(spec.prompt, texts[image.sha256]))
                emit(Captioned(spec.id, image.file, image.caption or ""))
            images.append(image)
        return replace(spec, images=tuple(images))

    return replace(job, datasets=tuple(told(spec) for spec in job.datasets))


def _read(folder: Path, sha256: str) -> str | None:
    try:
        return _file(folder, sha256).read_text("utf-8")
    except FileNotFoundError:
        return None


def _keep(folder: Path, sha256: str, text: str) -> None:
    if _read(folder, sha256) != text:
        write_atomically(_file(folder, sha256), text.encode())


def _file(folder: Path, sha256: str) -> Path:
    return folder / f"{re.sub('[^0-9a-f]', '', sha256)}.txt"
