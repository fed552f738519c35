"""The part of the plan that is about pictures: every set with its sizes, its share, and how often it will be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from orchestrator.dataset.placement import Placement, place_photos, sizing_of
from orchestrator.dataset.scan import Scan
from orchestrator.dataset.visits import Drawn, epoch_length, expected_turns, turns_per_epoch
from orchestrator.errors import UsageError
from orchestrator.families import Family
from orchestrator.ranges import Range, duration_range
from orchestrator.spec import RunSpec
from orchestrator.spec_data import (
    CAPTIONER,
    GeneratedClassImages,
    GitClassImages,
    NoClassImages,
    PictureFolder,
    PictureSet,
    Role,
)
from orchestrator.workload import CAPTIONER_GB
from remote_trainer.wire import Crop, DatasetSpec, Decision, GitPictures, ImageSpec, TrainSpec

RANDOM_CROPS = 4
"""As in `remote_trainer.dataset.views`."""


@dataclass(frozen=True)
class PlannedSet:
    id: str
    role: Role
    prompt: str
    placements: tuple[Placement, ...]
    generate: int
    """How many the base makes on the host."""
    fetch: GitPictures | None
    """What the host fetches."""
    repeats: int | None
    """None: as many passes as it is drawn for."""
    probability: float
    ignore_epochs: bool
    crop: Crop
    mirror: bool
    mask: bool
    captioned: bool = False
    """The machine describes the pictures that have no caption."""

    @property
    def to_caption(self) -> int:
        return sum(placed.photo.caption is None for placed in self.placements) if self.captioned else 0

    @property
    def count(self) -> int:
        """Of a repository, at most."""
        return len(self.placements) + self.generate + (self.fetch.count if self.fetch else 0)

    @property
    def views(self) -> int:
        """In how many ways each picture is cut, all of which are encoded."""
        return (RANDOM_CROPS if self.crop == "random" else 1) * (2 if self.mirror else 1)

    @property
    def folder(self) -> str:
        """On the host, relative to the run's folder."""
        return f"data/{self.id}"


@dataclass(frozen=True)
class Visits:
    """What training is expected to see of a set."""

    id: str
    each: float
    """How often each of its pictures."""
    share: float
    """0…1 of all pictures seen."""


@dataclass(frozen=True)
class ClassImages:
    placements: tuple[Placement, ...]
    generate: int
    """How many the base makes on the host."""
    fetches: tuple[GitPictures, ...]
    """What the host fetches."""

    @property
    def count(self) -> int:
        """Of repositories, at most."""
        return len(self.placements) + self.generate + sum(wanted.count for wanted in self.fetches)


def plan_sets(spec: RunSpec, scans: Mapping[str, Scan], fetches: Mapping[str, GitPictures]) -> tuple[PlannedSet, ...]:
    """Every set of the spec, its photos placed. Raises UsageError for a folder that nobody has looked at."""
    return tuple(
        _planned(spec, pictures, scans.get(pictures.id), fetches.get(pictures.id)) for pictures in spec.picture_sets
    )


def _planned(spec: RunSpec, pictures: PictureSet, scan: Scan | None, pinned: GitPictures | None) -> PlannedSet:
    placements: tuple[Placement, ...] = ()
    generate, fetch = 0, None
    match pictures.source:
        case PictureFolder(folder):
            if scan is None:
                raise UsageError(f"the pictures in {folder} were not looked at")
            placements = place_photos(scan.photos, sizing_of(pictures, spec.train))
        case GeneratedClassImages(count):
            generate = count
        case GitClassImages(url, folder):
            fetch = pinned or GitPictures(url, folder, spec.data.regularization_count)
        case NoClassImages():
            raise UsageError(f"set `{pictures.id}` names no pictures")
        case _ as never:
            assert_never(never)
    return PlannedSet(
        id=pictures.id,
        role=pictures.role,
        prompt=spec.prompt_of(pictures),
        placements=placements,
        generate=generate,
        fetch=fetch,
        repeats=None if pictures.is_endless else pictures.repeats or 0,
        probability=pictures.probability,
        ignore_epochs=pictures.ignores_epochs,
        crop=pictures.crop,
        mirror=pictures.mirror,
        mask=pictures.mask,
        captioned=pictures.captions == "generated",
    )


def instance_placements(sets: Sequence[PlannedSet]) -> tuple[Placement, ...]:
    return tuple(placed for each in sets if each.role == "instance" for placed in each.placements)


def encoded_pixels(sets: Sequence[PlannedSet], resolution: int) -> float:
    """Of every picture in all its views; what the host makes or fetches is square."""
    total = 0
    for each in sets:
        placed = sum(placement.bucket.width * placement.bucket.height for placement in each.placements)
        total += each.views * (placed + (each.count - len(each.placements)) * resolution**2)
    return total


def sizes_of(sets: Sequence[PlannedSet], resolution: int) -> set[tuple[int, int]]:
    """(width, height) in pixels of everything that is trained on; what the host makes or fetches is square."""
    made = {(resolution, resolution) for each in sets if each.generate or each.fetch}
    return made | {(placed.bucket.width, placed.bucket.height) for each in sets for placed in each.placements}


def class_images_of(sets: Sequence[PlannedSet]) -> ClassImages | None:
    """All sets of the role class taken together; None without one."""
    found = [each for each in sets if each.role == "class"]
    if not found:
        return None
    return ClassImages(
        tuple(placed for each in found for placed in each.placements),
        sum(each.generate for each in found),
        tuple(each.fetch for each in found if each.fetch is not None),
    )


def expected_visits(sets: Sequence[PlannedSet], train: TrainSpec) -> tuple[Visits, ...]:
    """In the order of `sets`. Exact for a set that is drawn from alone, else an expectation."""
    batches = train.steps * train.gradient_accumulation
    pools = pools_of(sets, train)
    seen: dict[str, float] = {}
    for pool in pools:
        turns = expected_turns([_drawn(each, train) for each in pool], batches)
        seen |= {each.id: count * train.batch_size for each, count in zip(pool, turns, strict=True)}
    total = sum(seen.values())
    return tuple(Visits(each.id, seen[each.id] / each.count, seen[each.id] / total) for each in sets)


def steps_per_epoch(sets: Sequence[PlannedSet], train: TrainSpec) -> float | None:
    """Of the subject's sets, or of all where they are mixed with the class's; None where nothing ends an epoch."""
    length = epoch_length([_drawn(each, train) for each in pools_of(sets, train)[0]])
    return None if length is None else length / train.gradient_accumulation


def pools_of(sets: Sequence[PlannedSet], train: TrainSpec) -> list[list[PlannedSet]]:
    """The sets that take turns with each other: all, or those of each role where both are in every batch."""
    instance = [each for each in sets if each.role == "instance"]
    class_ = [each for each in sets if each.role == "class"]
    if train.prior_sampling == "mixed" or not class_:
        return [list(sets)]
    return [instance, class_]


def _drawn(each: PlannedSet, train: TrainSpec) -> Drawn:
    turns = turns_per_epoch(each.count, each.repeats, train.batch_size)
    return Drawn(turns, each.probability, holds_epoch=turns is not None and not each.ignore_epochs)


def dataset_specs(sets: Sequence[PlannedSet], images: Mapping[str, tuple[ImageSpec, ...]]) -> tuple[DatasetSpec, ...]:
    """For the job. `images`: of each set, by its id, in the order of its placements."""
    return tuple(
        DatasetSpec(
            id=each.id,
            role=each.role,
            folder=each.folder,
            prompt=each.prompt,
            images=images.get(each.id, ()),
            generate=each.generate,
            fetch=each.fetch,
            repeats=each.repeats,
            probability=each.probability,
            ignore_epochs=each.ignore_epochs,
            crop=each.crop,
            mirror=each.mirror,
            captioned=each.to_caption > 0,
        )
        for each in sets
    )


def data_decisions(
    spec: RunSpec, sets: Sequence[PlannedSet], family: Family, captions_s: Range | None = None
) -> list[Decision]:
    """`captions_s`: what the captions take, where somebody is paid for it."""
    decisions = []
    train = spec.train
    if not train.aspect_buckets and any(each.square is None for each in spec.picture_sets):
        decisions.append(Decision(f"photos are cropped to {train.resolution}×{train.resolution}", "as the spec says"))
    placements = instance_placements(sets)
    captions = sum(placement.photo.caption is not None for placement in placements)
    to_caption = sum(each.to_caption for each in sets)
    if to_caption:
        decisions.append(
            Decision(
                f"{_counted(to_caption, 'caption')} written on the machine by {_captioner(spec)}",
                f"the prompt, then what is seen; {_captioner_size(spec)}{_for_time(captions_s)}; they come home as "
                "text files beside the photos",
            )
        )
    elif not captions and family.reads_sentences and len(placements) > 1:
        decisions.append(
            Decision(
                "every photo has the same caption, the prompt",
                f"{family.name} was made with sentences: `--set data.captions=generated` has the machine write them",
            )
        )
    if 0 < captions < len(placements) and not to_caption:
        rest = len(placements) - captions
        decisions.append(Decision(f"{rest} of {len(placements)} photos use the instance prompt", "no caption file"))
    for each in sets:
        if each.fetch is not None and each.fetch.commit is None:
            what = f"take {each.fetch.url} as it is when the first machine fetches it, and no later"
            decisions.append(Decision(what, "this computer has no git to pin it with"))
    masked = [each.id for each in sets if each.mask]
    if masked and spec.data.ship_originals:
        names = ", ".join(masked)
        decisions.append(Decision(f"the pictures of {names} are scaled here", "their masks travel with them"))
    return decisions


def _captioner(spec: RunSpec) -> str:
    name, _, commit = spec.data.captioner.partition("@")
    at = f" at {commit[:12]}" if commit else ""
    return f"{name}{at}" + (" (MIT license)" if spec.data.captioner == CAPTIONER else "")


def _captioner_size(spec: RunSpec) -> str:
    return "it lies there" if spec.data.captioner.startswith("/") else f"{CAPTIONER_GB:g} GB to download at most"


def _for_time(seconds: Range | None) -> str:
    return "" if seconds is None else f", {duration_range(seconds)} in all"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
