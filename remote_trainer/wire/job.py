"""All that a host has to know about a run: the recipe, the base, the sets of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Optional

from .codec import PROTOCOL, Bounds, Count, Positive
from .picture_job import PictureJob
from .train_spec import Crop, ExportFormat, TrainSpec


@dataclass(frozen=True)
class ImageSpec:
    """One picture, as prepared by the laptop: without metadata; unless `original`: RGB, 8 bit, upright, large enough to
    cover its bucket."""

    file: str
    """Path relative to the dataset's folder, with forward slashes."""
    sha256: str
    bucket_width: int
    bucket_height: int
    """The size in pixels it is trained at: the trainer center-crops to it, and resamples originals alone."""
    caption: Optional[str] = None
    """None: the dataset's prompt."""
    described: Optional[str] = None
    """The caption that an earlier machine of this run wrote for a picture that has none."""
    original: bool = False
    """The file has the photo's own pixels, in RGB or gray: the trainer scales it to just cover its bucket."""
    orientation: Annotated[int, Bounds(ge=1, le=8)] = 1
    """How the pixels of an original have to be turned to be upright, as EXIF counts."""
    photo_width: Optional[int] = None
    photo_height: Optional[int] = None
    """The photo's size in pixels, upright, before it was resized: SDXL is told it. None: that of what is cropped."""
    masked: bool = False
    """The file's transparency says what counts: the loss is taken over what is opaque."""


@dataclass(frozen=True)
class GitPictures:
    """Pictures that the host takes from a public git repository by itself, and nothing else of it."""

    url: str
    folder: str
    """Within the repository, forward slashes; empty: its top."""
    count: Positive
    """How many of the folder's pictures, at most."""
    commit: Optional[str] = None
    """The full hash to take them from; None: whatever the repository's HEAD is."""


@dataclass(frozen=True)
class DatasetSpec:
    """A folder of pictures that share a role and a default prompt."""

    id: str
    role: Literal["instance", "class"]
    folder: str
    """Relative to the run's folder on the host."""
    prompt: str
    images: tuple[ImageSpec, ...] = ()
    generate: Count = 0
    """Class images that the base itself makes on the host, square at the training resolution, from `prompt`."""
    fetch: Optional[GitPictures] = None
    """Class images that the host fetches, cropped to a square of the training resolution."""
    repeats: Optional[Count] = 0
    """Passes over the pictures in an epoch beyond the first; None: as many as it happens to be drawn for."""
    probability: Annotated[float, Bounds(gt=0)] = 1.0
    """How often it is drawn, against the other sets of its batch."""
    ignore_epochs: bool = False
    """An epoch ends without waiting until this set is used up."""
    crop: Crop = "center"
    """What of a picture larger than its bucket is taken; `random`: one of a few places, drawn anew at each visit."""
    mirror: bool = False
    """Half of the visits see the picture mirrored left to right."""
    captioned: bool = False
    """Pictures without a caption get one on the host from `Job.captioner`: the prompt, then what it says."""

    @property
    def pictures(self) -> int:
        """How many it has; of a repository, at most."""
        return len(self.images) + self.generate + (self.fetch.count if self.fetch else 0)


@dataclass(frozen=True)
class Job:
    """All that a host has to know about a run. Written to `job.json` in the run's folder, once."""

    run: str
    name: str
    """Name of the model: the stem of what is exported."""
    base: str
    """`builtin:tiny`, a hub id with optional `@revision`, `https://…#sha256=…`, or `folder:<12 hex digits>` and
    `file:<12 hex digits>` for one that travels; equal on every host, so that checkpoints can name what they belong to.
    """
    train: TrainSpec
    datasets: tuple[DatasetSpec, ...]
    formats: tuple[ExportFormat, ...]
    deadline_s: Optional[float] = None
    """Seconds from the supervisor's first start (sleep included) until it must have ended; None on own machines."""
    allow_cpu: bool = False
    processes: Positive = 1
    """How many train together, each on a GPU of its own; every one takes `train.batch_size` pictures at a time."""
    nodes: Positive = 1
    """On how many machines they are, as many on each; where those meet, each is told by its environment."""
    base_path: Optional[str] = None
    """Where a base that travels lies on this host; None: `base` says it all."""
    captioner: Optional[str] = None
    """`hub id@commit`, or an absolute folder on the host: the model that describes pictures of sets that are
    `captioned`."""
    base_config: Optional[str] = None
    """Whose configuration a base that is a single file has: a hub id or `builtin:NAME`; None: as diffusers finds."""
    closed_base: bool = False
    """The base is gated or private: the laptop lends a read token, beside this file and never in it."""
    machine: str = ""
    """Tag of the machine: each has the whole deadline, and a supervisor restarted on one has what is left of it."""
    limit_s: Optional[float] = None
    """Seconds from the supervisor's first start on this machine (sleep included) until its money is gone: by then the
    machine itself must have ended. None on machines that nobody rents."""
    reserve_s: Annotated[float, Bounds(ge=0)] = 300.0
    """How long the end of a run may take (checkpoint, export, upload), as planned; the supervisor corrects it by what
    it sees, and asks training to stop this much before `limit_s`."""
    wait_for_laptop_s: Annotated[float, Bounds(ge=0)] = 3600.0
    """How long a rented machine waits, after the run's end, for the laptop to take what lies nowhere else."""
    pictures: Optional[PictureJob] = None
    """Nothing is trained: these are made instead, with `base` as above, and committed as the run's output. On the
    laptop `model` is a path there."""
    protocol: int = PROTOCOL
