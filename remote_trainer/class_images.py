"""Class images that are not sent: made by the base itself before it is trained, or fetched from a git repository.

What the base makes is kept on a shelf beside the runs, under the hash of everything it follows from, and the next run
that wants the same takes it from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from . import git_pictures, wire
from .checkpoint import Pin
from .commit import file_entry
from .dataset.pictures import fetched_folder, generated_files
from .denoising import Denoising
from .encoded import Prompts, encode_prompts
from .families.api import Family, TextEmbedding
from .sampling import SamplerSettings, sample_latents, to_images, write_png
from .stopping import ShouldStop, check
from .thrift import twice
from .wire import DatasetSpec, Decision, Job, PhaseStarted, SampleMade

Emit = Callable[[wire.Event], None]

_BATCH = {"cuda": 4, "cpu": 1}
_MEMORY_HINT = "lower `train.resolution`, rent a GPU with more memory, or take class images from a folder or repository"
_SHEET, _THUMBNAIL = 64, 96


def fetch_all(
    job: Job, run_folder: Path, emit: Emit, should_stop: ShouldStop, pins: Sequence[Pin] = ()
) -> tuple[Pin, ...]:
    """Brings the pictures of every git repository that are not here yet, and returns what they were taken from.

    A repository that the plan could not pin is pinned by the first machine: its checkpoints hold `pins`, so that every
    later one takes the same pictures. Raises as `git_pictures.fetch` does.
    """
    commits = {pin.set: pin.commit for pin in pins}
    taken = []
    for spec in job.datasets:
        if spec.fetch is None:
            continue
        folder = fetched_folder(run_folder, spec)
        if git_pictures.fetched_files(folder) is None:
            emit(PhaseStarted("class-images", f"{spec.fetch.count} of {spec.fetch.url}"))
            wanted = replace(spec.fetch, commit=spec.fetch.commit or commits.get(spec.id))
            git_pictures.fetch(wanted, folder, emit, should_stop)
            if wanted.commit is None:
                what = f"take {wanted.url} at commit {git_pictures.fetched_commit(folder)}"
                emit(Decision(what, "what it has now: the plan did not pin it"))
        taken.append(Pin(spec.id, git_pictures.fetched_commit(folder)))
    return tuple(taken)


def missing(job: Job, run_folder: Path) -> int:
    """How many of the pictures the base is to make do not exist yet."""
    return sum(not path.exists() for spec in job.datasets for path in generated_files(run_folder, spec))


def prompts_of(job: Job, family: Family, device: torch.device) -> Prompts:
    """To be asked for before the denoiser is loaded: it and the text encoders need not fit into memory together."""
    texts = [spec.prompt for spec in job.datasets if spec.generate]
    return encode_prompts(family, [*texts, ""], device, lambda _: None)  # the encode phase says what is cut off


class Shelf:
    """Pictures of earlier runs on this machine. Every method is safe beside another run's."""

    def __init__(self, folder: Path | None, job: Job, settings: SamplerSettings, device: str, precision: str) -> None:
        """folder: shared by the runs of a machine; None keeps nothing."""
        self._folder, self._job = folder, job
        self._made_by = {
            "base": job.base, "config": job.base_config, "seed": job.train.seed, "device": device,
            "precision": precision, "batch": _BATCH[device], "settings": vars(settings),
        }  # fmt: skip

    def take(self, run_folder: Path, emit: Emit) -> None:
        """Puts what is there of the pictures that are missing into the run's folder, and says how many."""
        taken = 0
        for spec in self._job.datasets:
            for number, path in enumerate(generated_files(run_folder, spec)):
                kept = self.place(spec, number)
                if kept is not None and not path.exists() and kept.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    taken += _linked(kept, path)
        if taken:
            why = "an earlier run on this machine made them with the same base, prompt, seed and settings"
            emit(Decision(f"{taken} class images are used again", why))

    def place(self, spec: DatasetSpec, number: int) -> Path | None:
        """Where picture `number` of a set is kept; None without a shelf."""
        if self._folder is None:
            return None
        origin = json.dumps({**self._made_by, "set": spec.id, "prompt": spec.prompt}, sort_keys=True)
        key = hashlib.sha256(origin.encode()).hexdigest()[:16]
        return self._folder / key / f"{number:06d}.png"


def generate(
    job: Job,
    run_folder: Path,
    denoising: Denoising,
    prompts: Prompts,
    settings: SamplerSettings,
    shelf: Shelf,
    emit: Emit,
    should_stop: ShouldStop,
) -> None:
    """Makes the missing pictures, each a function of (seed, dataset, index), and keeps them on the shelf. Raises
    StopRequested between batches, and TrainingFailed("out-of-memory") where not even one fits.

    Batches have fixed borders and are made whole when any picture of theirs is missing: the bits of a picture depend
    on the batch it was made in, so an interrupted run, or one that wants more, would otherwise have other pictures.
    """
    for spec in job.datasets:
        if spec.generate:
            _generate(job, spec, run_folder, denoising, prompts, settings, shelf, emit, should_stop)


def _generate(
    job: Job,
    spec: DatasetSpec,
    run_folder: Path,
    denoising: Denoising,
    prompts: Prompts,
    settings: SamplerSettings,
    shelf: Shelf,
    emit: Emit,
    should_stop: ShouldStop,
) -> None:
    device = denoising.device
    autoencoder = denoising.family.load_autoencoder(device)
    one_by_one = False

    def adapted(why: str) -> None:
        """Their bits are others now: such pictures are for this run alone."""
        nonlocal autoencoder, one_by_one
        one_by_one, autoencoder = True, denoising.family.load_autoencoder(torch.device("cpu"))
        emit(Decision("class images are made one by one", f"memory ran out: {why}"))

    files = generated_files(run_folder, spec)
    files[0].parent.mkdir(parents=True, exist_ok=True)
    size = _BATCH[device.type]
    for first in range(0, len(files), size):
        batch = files[first : first + size]
        if all(path.exists() for path in batch):
            continue
        check(should_stop)
        keys = [("class", job.train.seed, spec.id, first + offset) for offset in range(size)]
        text = prompts.batch([spec.prompt] * size)

        def draw(thrifty: bool, keys: Any = keys, text: TextEmbedding = text) -> list[Any]:
            thrifty = thrifty or one_by_one
            negative = prompts.batch([""])
            latents = sample_latents(denoising, text, negative, keys, settings, one_by_one=thrifty)
            return to_images(autoencoder, latents.cpu() if thrifty else latents)

        images = twice(draw, "making class images", _MEMORY_HINT, adapted)
        for number, (path, image) in enumerate(zip(batch, images, strict=False), first):
            if not path.exists():
                write_png(image, path)
                _keep(path, None if one_by_one else shelf.place(spec, number))


def _keep(path: Path, place: Path | None) -> None:
    """A shelf that cannot be filled (a full disk) costs nothing but the next run's time."""
    if place is not None:
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            _linked(path, place)


def _linked(source: Path, target: Path) -> bool:
    """The same file under a second name, or a copy where the disk has no links."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        os.link(source, beside)
    except OSError:
        shutil.copyfile(source, beside)
    os.replace(beside, target)
    return True


# ---- to be looked at -----------------------------------------------------------------------------------------------


def show(job: Job, run_folder: Path, emit: Emit) -> None:
    """Announces a sheet of thumbnails for each set that was made or fetched here. Nothing happens the second time."""
    for spec in job.datasets:
        files = [
            *generated_files(run_folder, spec),
            *(git_pictures.fetched_files(fetched_folder(run_folder, spec)) or []),
        ]
        sheet = run_folder / wire.VALIDATION_FOLDER / f"class-images-{spec.id}.png"
        if files and not sheet.exists():
            sheet.parent.mkdir(parents=True, exist_ok=True)
            write_png(contact_sheet(files), sheet)
            emit(SampleMade(0, f"{len(files)} class images: {spec.prompt}", file_entry(sheet, run_folder)))


def contact_sheet(files: Sequence[Path]) -> Any:
    """A PIL image of at most 64 thumbnails, spread evenly over the files."""
    from PIL import Image

    shown = [files[index * len(files) // min(len(files), _SHEET)] for index in range(min(len(files), _SHEET))]
    columns = max(1, round(len(shown) ** 0.5))
    rows = -(-len(shown) // columns)
    canvas = Image.new("RGB", (columns * _THUMBNAIL, rows * _THUMBNAIL), "white")
    for number, file in enumerate(shown):
        with Image.open(file) as image:
            small = image.convert("RGB")
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        canvas.paste(small, (number % columns * _THUMBNAIL, number // columns * _THUMBNAIL))
    return canvas
