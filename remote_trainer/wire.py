"""What the laptop and a host say to each other: the job, the events, the manifests.

Standard library only, Python 3.9 or later: the laptop imports this module and nothing else of `remote_trainer`,
and the supervisor must run on whatever Python a rented image brings. For the same reason types are spelled
`Optional[...]`: `decode` evaluates the annotations at run time, and 3.9 cannot evaluate `int | None`.

The dataclasses are the only schema there is. The laptop's spec wraps them in pydantic models, which validate stdlib
dataclasses in place and take the ranges from `Bounds`; the host checks the same ranges with `decode`.

It is long because it is whole: job, files, events and their one codec, so that one import is all that is shared.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Optional, TypeVar, Union

PROTOCOL = 1
"""Version of everything in this file. A reader refuses a higher one and ignores fields it does not know in events."""

T = TypeVar("T")


class WireError(ValueError):
    """A message cannot be understood: wrong version, wrong type, value out of range, broken JSON."""


@dataclass(frozen=True)
class Bounds:
    """The allowed range of a number; `multiple_of` is checked too. Used as `Annotated[int, Bounds(ge=1)]`."""

    ge: Optional[float] = None
    gt: Optional[float] = None
    le: Optional[float] = None
    multiple_of: Optional[int] = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Pydantic asks annotations for a schema by this name; so one declaration serves both sides."""
        schema = handler(source)
        inner = schema["schema"] if schema["type"] == "nullable" else schema
        for name in ("ge", "gt", "le", "multiple_of"):
            limit = getattr(self, name)
            if limit is not None:
                inner[name] = type(limit)(limit) if inner["type"] != "int" else int(limit)
        return schema

    def violation(self, value: float) -> Optional[str]:
        """The broken rule as words ("must be at least 1"), or None."""
        if self.ge is not None and value < self.ge:
            return f"must be at least {self.ge:g}"
        if self.gt is not None and value <= self.gt:
            return f"must be greater than {self.gt:g}"
        if self.le is not None and value > self.le:
            return f"must be at most {self.le:g}"
        if self.multiple_of is not None and value % self.multiple_of:
            return f"must be a multiple of {self.multiple_of}"
        return None


Count = Annotated[int, Bounds(ge=0)]
Positive = Annotated[int, Bounds(ge=1)]

# ---- the job -------------------------------------------------------------------------------------------------------

Method = Literal["full", "lora", "dora"]
LrSchedule = Literal["constant", "linear", "cosine", "polynomial", "sine"]
OptimizerName = Literal["adamw", "adamw-8bit", "adamw-bf16", "adafactor"]
Precision = Literal["auto", "fp32", "bf16"]
PriorSampling = Literal["paired", "mixed"]
Crop = Literal["center", "corner", "random"]
Weights = Literal["fp32", "bf16", "int8", "nf4"]
"""How a denoiser's weights that do not train are kept in memory."""
BasePrecision = Literal["auto", "fp32", "bf16", "int8", "nf4"]
FlowDensity = Literal["uniform", "logit-normal"]
ExportFormat = Literal["diffusers", "lora", "single-file", "ckpt", "kohya-lora"]
ADAPTER_FORMATS: tuple[ExportFormat, ...] = ("lora", "kohya-lora")
"""Those that hold an adapter alone; the others hold a whole model."""
EVERY_FORMAT: dict[Method, tuple[ExportFormat, ...]] = {
    "full": ("diffusers", "single-file", "ckpt"),
    "lora": ("lora", "kohya-lora", "diffusers", "single-file", "ckpt"),
    "dora": ("lora", "diffusers", "single-file", "ckpt"),
}
"""What each method can be exported to, the default first; the diffusers folder of a LoRA has it fused in. Readers of
kohya's files disagree on DoRA, so nobody could check one."""
ADAPTERS_ALONE: dict[Method, tuple[ExportFormat, ...]] = {"lora": ("lora",), "dora": ("lora",)}
"""Of families with billions of parameters: diffusers and ComfyUI open the one file."""
ADAPTERS_AND_KOHYA: dict[Method, tuple[ExportFormat, ...]] = {"lora": ("lora", "kohya-lora"), "dora": ("lora",)}
"""Of such families that kohya's trainers have names for."""


@dataclass(frozen=True)
class TrainSpec:
    """The `[train]` section: how to train. None means "decided by the plan", which then prints its reason."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    method: Method = "lora"
    steps: Positive = 1000
    """Optimizer steps, not micro-batches."""
    resolution: Annotated[int, Bounds(ge=64, le=2048, multiple_of=8)] = 512
    """Side in pixels of the square whose area every aspect bucket shares."""
    aspect_buckets: bool = True
    """False crops every picture to a square."""
    batch_size: Positive = 1
    gradient_accumulation: Positive = 1
    learning_rate: Optional[Annotated[float, Bounds(gt=0)]] = None
    lr_schedule: LrSchedule = "constant"
    lr_end: Annotated[float, Bounds(ge=0)] = 0.0
    """Learning rate at the last step of a falling schedule, and at the lowest points of a sine."""
    lr_power: Annotated[float, Bounds(gt=0)] = 1.0
    """Exponent of the polynomial schedule; 1 is linear, 2 falls early and ends flat."""
    lr_warmup_steps: Count = 0
    optimizer: OptimizerName = "adamw"
    """`adamw-8bit` keeps its moments in 8 bits (needs bitsandbytes), `adamw-bf16` keeps weights and moments in bf16 and
    rounds at random, `adafactor` keeps rows and columns of the second moment alone."""
    weight_decay: Annotated[float, Bounds(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Bounds(gt=0)] = 1.0
    min_snr_gamma: Optional[Annotated[float, Bounds(gt=0)]] = None
    """Weight losses by min(SNR, gamma)/SNR (arXiv 2303.09556); None leaves every timestep alike."""
    debiased_estimation: bool = False
    """Weight losses by 1/sqrt(SNR) (arXiv 2310.08442)."""
    noise_offset: Annotated[float, Bounds(ge=0, le=1)] = 0.0
    """Share of noise that is equal over a whole channel: very dark and very bright pictures become possible."""
    caption_dropout: Annotated[float, Bounds(ge=0, le=1)] = 0.0
    """How often a picture is shown with an empty caption."""
    ema_decay: Optional[Annotated[float, Bounds(gt=0, le=0.99999)]] = None
    """Keeps a moving average of the weights, which is what is evaluated, shown and exported; None keeps none."""
    flow_density: FlowDensity = "logit-normal"
    """How often each noise level of a flow is trained; logit-normal favors the middle (arXiv 2403.03206)."""
    flow_shift: Optional[Annotated[float, Bounds(gt=0)]] = None
    """Moves the noise levels of a flow towards noise; None: as the base's own scheduler does."""
    prior_loss_weight: Annotated[float, Bounds(ge=0)] = 1.0
    """The lambda in front of the loss on class images; used only when the job has class images."""
    prior_sampling: PriorSampling = "paired"
    """`paired` puts as many class images beside the subject's into every batch; `mixed` gives a batch to one set of
    pictures, drawn by probability, so that the batch does not double. What counts is probability times lambda."""
    text_encoder_learning_rate: Optional[Annotated[float, Bounds(gt=0)]] = None
    """Trains the text encoders too, by the same method, at this peak of the same schedule; None leaves them alone."""
    seed: Count = 42
    precision: Precision = "auto"
    lora_rank: Positive = 16
    lora_targets: tuple[str, ...] = ()
    """Ends of the names of the denoiser's linear layers that get an adapter; empty: what is usual for the base."""
    base_precision: BasePrecision = "auto"
    """How frozen weights are kept in memory beside an adapter; int8 and nf4 for families of billions of parameters."""
    lora_alpha: Optional[Annotated[float, Bounds(gt=0)]] = None
    """None: equal to the rank, so that the update is not rescaled."""
    checkpoint_every: Optional[Positive] = None
    keep_checkpoints: Positive = 2
    """How many committed checkpoints stay on the host's disk."""
    validate_every: Count = 200
    """Steps between validation pictures; 0 makes them only before the first and after the last step."""
    validation_prompts: tuple[str, ...] = ()
    validation_inference_steps: Positive = 25
    validation_guidance_scale: Optional[Annotated[float, Bounds(ge=0)]] = None
    """Of a second pass without prompt, where the base is guided by one, or what a base is told (Flux.1)."""
    cpu_threads: Optional[Positive] = None
    """Threads of one trainer on a CPU. Results are bit-identical only for an equal count."""


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
    base_path: Optional[str] = None
    """Where a base that travels lies on this host; None: `base` says it all."""
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
    protocol: int = PROTOCOL


# ---- files ---------------------------------------------------------------------------------------------------------


ModelKind = Literal["lora", "diffusers", "single-file"]
Sampler = Literal["ddim", "dpm++-2m", "dpm++-2m-karras", "euler", "euler-a", "heun", "lms", "pndm", "unipc"]


@dataclass(frozen=True)
class PictureJob:
    """What `sample` makes: pictures of one prompt at consecutive seeds. None leaves a value to the base's pipeline."""

    name: str
    """Of the model, for the pictures' metadata."""
    base: str
    """A diffusers folder on this host, a single file, a hub id or `builtin:NAME`."""
    model: str
    """Path on this host."""
    kind: ModelKind
    prompt: str
    negative: str = ""
    count: Positive = 4
    seed: Count = 42
    """Of the first picture; the next ones follow."""
    width: Optional[Annotated[int, Bounds(ge=64, le=4096, multiple_of=8)]] = None
    height: Optional[Annotated[int, Bounds(ge=64, le=4096, multiple_of=8)]] = None
    steps: Optional[Positive] = None
    guidance: Optional[Annotated[float, Bounds(ge=0)]] = None
    sampler: Optional[Sampler] = None
    """None: the base's own."""
    compare: bool = False
    """The base's pictures as well, beside those of the trained model."""
    base_config: Optional[str] = None
    """As `Job.base_config`."""
    allow_cpu: bool = True

    @property
    def needs_base(self) -> bool:
        """A whole model in diffusers' form opens by itself."""
        return self.compare or self.kind != "diffusers"


@dataclass(frozen=True)
class FileEntry:
    path: str
    """Relative to the manifest's folder, forward slashes, never absolute, never with `..`."""
    bytes: int
    sha256: str

    @property
    def stays_inside(self) -> bool:
        """Whether `path` keeps to the folder that it is relative to. Machines may be strangers': ask before writing."""
        parts = self.path.split("/")
        return not self.path.startswith("/") and not {"", "..", "."} & set(parts) and not set("\\\0") & set(self.path)


MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """The files of a checkpoint or an export. Written last: a folder without one was never committed."""

    step: int
    files: tuple[FileEntry, ...]
    protocol: int = PROTOCOL

    def to_bytes(self) -> bytes:
        """The one serialized form: its sha256 identifies the artifact."""
        return (json.dumps(encode(self), indent=1, sort_keys=True) + "\n").encode()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def total_bytes(self) -> int:
        return sum(entry.bytes for entry in self.files)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Manifest:
        """Raises WireError for broken JSON and for a path that would leave the folder."""
        manifest = decode(cls, _parse(raw))
        for entry in manifest.files:
            if not entry.stays_inside:
                raise WireError(f"manifest names a path outside its folder: {entry.path!r}")
        return manifest


def partial_name(path: str) -> str:
    """Where a file grows on a host until it is complete and right: `unet/.weights.part` for `unet/weights`."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.part"


TAR_OFFSET, TAR_SHA256 = "CLOUDBOOTH.offset", "CLOUDBOOTH.sha256"
"""Extended headers of a tar stream to a host: where in its file a member belongs (it is a range then, and no file by
itself), and the hash of a member that is a whole file."""


@dataclass(frozen=True)
class CommittedFolder:
    """A checkpoint or export that stands complete on the host's disk."""

    step: int
    folder: str
    """Relative to the run's folder."""
    manifest_sha256: str


# ---- uploads to a store --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LentObject:
    """Two URLs that write and read one object until they expire."""

    put: str = dataclasses.field(repr=False)
    get: str = dataclasses.field(repr=False)


@dataclass(frozen=True)
class StoreKeys:
    """Credentials themselves, for stores that cannot presign. Only on the user's explicit word, only in memory."""

    access_key: str = dataclasses.field(repr=False)
    secret_key: str = dataclasses.field(repr=False)
    session_token: str = dataclasses.field(repr=False)
    region: str


@dataclass(frozen=True)
class UploadGrant:
    """What a host may write to the store: numbered objects of a pool, and nothing else. Without `keys`, no secret of
    the account is in it. A later grant replaces an earlier one."""

    id: str
    chunk_bytes: Positive
    """Of every chunk but the last of each file."""
    chunks: tuple[str, ...] = dataclasses.field(repr=False)
    """URLs for `PUT`, by number."""
    indexes: tuple[LentObject, ...]
    """Each for the index of one artifact, written after its chunks."""
    probe: LentObject
    lifetime_s: float
    """How long the URLs are good, from the moment they are handed over."""
    keys: Optional[StoreKeys] = None
    """Signs the requests, where the URLs are not signed themselves."""
    protocol: int = PROTOCOL


@dataclass(frozen=True)
class UploadedChunk:
    number: int
    """In `UploadGrant.chunks`."""
    bytes: int
    sha256: str


@dataclass(frozen=True)
class UploadIndex:
    """Written last: the artifact is in the store. Overwritten with `RETIRED` before its chunks are used again."""

    kind: Literal["checkpoint", "output"]
    manifest: str
    """The manifest file, byte for byte."""
    files: tuple[tuple[UploadedChunk, ...], ...]
    """The chunks of each file, in the order of the manifest; none for an empty file."""
    protocol: int = PROTOCOL

    def read_manifest(self) -> Manifest:
        """Raises WireError as `Manifest.from_bytes` does, and for chunks that do not add up to the files."""
        manifest = Manifest.from_bytes(self.manifest.encode())
        sizes = [sum(chunk.bytes for chunk in chunks) for chunks in self.files]
        if sizes != [entry.bytes for entry in manifest.files]:
            raise WireError("an upload's index does not match its manifest")
        return manifest


RETIRED = b"{}"


# ---- the state of a host -------------------------------------------------------------------------------------------

LapseAction = Literal["terminate", "stop"]


@dataclass(frozen=True)
class GuardStatus:
    """The guard of a rented machine, as its files tell. Seconds left are negative once they are over."""

    alive: bool
    """Whether it has looked at its files lately."""
    proven: Optional[bool]
    """Whether the machine was seen to be allowed to give itself back; None while the probe has not been answered."""
    lease_left_s: Optional[float]
    """Until the guard acts, unless somebody renews; None before it has drawn its first lease."""
    limit_left_s: Optional[float]
    """No renewal goes beyond it; None until a supervisor has set it."""
    on_lapse: LapseAction
    """`stop` while the disk holds the only copy of something committed."""


@dataclass(frozen=True)
class HostStatus:
    """The agent's answer to "how is the run?": facts read from disk and the process table, nothing remembered."""

    incarnation: str
    """Names the event log: byte offsets are valid only within one incarnation. Empty when the folder is new."""
    supervisor_pid: Optional[int]
    """None when no supervisor lives."""
    trainer_alive: bool
    driver_epoch: int
    """The highest epoch any driver has shown; a lower one is refused."""
    events_bytes: int
    started: bool
    """Whether any supervisor ever wrote to the event log."""
    ended: Optional[Literal["done", "failed", "stopped"]]
    """The terminal event of the newest supervisor; None while it has sent none."""
    checkpoints: tuple[CommittedFolder, ...]
    output: Optional[CommittedFolder]
    free_bytes: int
    guard: Optional[GuardStatus] = None
    """None on a machine that no guard was ever started on."""
    lent_s: Optional[float] = None
    """How long the uploads that were lent to it are good; None when nothing is lent, below 0 when it is over."""
    protocol: int = PROTOCOL


# ---- events --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hello:
    """First event of every supervisor's life."""

    TYPE: ClassVar[str] = "hello"
    protocol: int
    host: str
    python: str
    supervisor_pid: int
    driver_epoch: int


@dataclass(frozen=True)
class PhaseStarted:
    TYPE: ClassVar[str] = "phase"
    name: str
    """storage, environment, load, class-images, encode, train, evaluate, checkpoint, validate, export, verify."""
    detail: str = ""


@dataclass(frozen=True)
class Decision:
    """Something the trainer decided by itself, with its reason. The laptop prints every one."""

    TYPE: ClassVar[str] = "decision"
    what: str
    why: str


@dataclass(frozen=True)
class StepDone:
    TYPE: ClassVar[str] = "step"
    step: int
    of: int
    loss: Optional[float]
    """None where a hosted trainer does not say; so are the next two."""
    lr: Optional[float]
    images_per_s: Optional[float]
    """Of one GPU."""
    vram_gb: Optional[float] = None


@dataclass(frozen=True)
class Evaluated:
    """Mean loss over one fixed set of (image, noise, timestep): comparable between steps, unlike a step's loss."""

    TYPE: ClassVar[str] = "evaluation"
    step: int
    mean_loss: float


@dataclass(frozen=True)
class SampleMade:
    TYPE: ClassVar[str] = "sample"
    step: int
    prompt: str
    file: FileEntry
    """Path relative to the run's folder."""


@dataclass(frozen=True)
class CheckpointCommitted:
    TYPE: ClassVar[str] = "checkpoint"
    step: int
    folder: str
    manifest_sha256: str
    bytes: int


@dataclass(frozen=True)
class Uploaded:
    TYPE: ClassVar[str] = "uploaded"
    step: int
    manifest_sha256: str


@dataclass(frozen=True)
class Warned:
    TYPE: ClassVar[str] = "warning"
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Heartbeat:
    TYPE: ClassVar[str] = "heartbeat"
    elapsed_s: float
    trainer_alive: bool


@dataclass(frozen=True)
class SelfReleased:
    """What is known or decided about the machine giving itself back: said before training and at the run's end."""

    TYPE: ClassVar[str] = "self_release"
    outcome: str
    """As words for a person."""
    proven: Optional[bool] = None
    """Before training: whether the probe was answered well. None when nothing is said about that."""
    action: Optional[str] = None
    """At the end: `terminate` or `stop`, which the guard does `in_s` seconds from now if nobody renews the lease."""
    in_s: Optional[float] = None


FailureCode = Literal[
    "environment", "bad-job", "base-not-found", "bad-image", "out-of-memory", "disk-full", "deadline", "diverged",
    "export-mismatch", "stalled", "trainer-killed", "no-gpu", "storage", "class-images", "internal",
]  # fmt: skip


@dataclass(frozen=True)
class Failed:
    """Terminal: the supervisor gives up. A new `hello` may follow when the run is resumed."""

    TYPE: ClassVar[str] = "failed"
    code: str
    """A FailureCode; a plain string so that an older laptop can show a newer host's code."""
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Stopped:
    """Terminal: training was asked to stop and a checkpoint of the last step is committed."""

    TYPE: ClassVar[str] = "stopped"
    step: int


@dataclass(frozen=True)
class Done:
    """Terminal: believed only when `output/manifest.json` has this hash and every file matches it."""

    TYPE: ClassVar[str] = "done"
    step: int
    manifest_sha256: str


@dataclass(frozen=True)
class Unknown:
    """An event of a type this version does not know: kept, shown dimly, never an error."""

    type: str
    fields: dict[str, Any]


Event = Union[
    Hello, PhaseStarted, Decision, StepDone, Evaluated, SampleMade, CheckpointCommitted, Uploaded, Warned, Heartbeat,
    SelfReleased, Failed, Stopped, Done, Unknown,
]  # fmt: skip

_EVENT_TYPES: dict[str, Any] = {
    cls.TYPE: cls
    for cls in (
        Hello,
        PhaseStarted,
        Decision,
        StepDone,
        Evaluated,
        SampleMade,
        CheckpointCommitted,
        Uploaded,
        Warned,
        Heartbeat,
        SelfReleased,
        Failed,
        Stopped,
        Done,
    )
}


@dataclass(frozen=True)
class Envelope:
    """One line of `events.jsonl`."""

    seq: int
    t: float
    """Unix seconds by the host's clock: for display only, never for arithmetic between machines."""
    event: Event


def encode_event(event: Event, seq: int, t: float) -> bytes:
    """The line, newline included."""
    if isinstance(event, Unknown):
        body: dict[str, Any] = {"type": event.type, **event.fields}
    else:
        body = {"type": event.TYPE, **encode(event)}
    return (json.dumps({"v": PROTOCOL, "seq": seq, "t": round(t, 3), **body}) + "\n").encode()


def decode_event(line: bytes) -> Envelope:
    """Raises WireError for broken JSON, a missing field or a higher version; unknown types and fields pass."""
    body = _parse(line)
    if not isinstance(body, dict):
        raise WireError("an event is not a JSON object")
    version = body.pop("v", None)
    if not isinstance(version, int) or version > PROTOCOL:
        raise WireError(f"the host speaks event version {version}, this cloudbooth knows up to {PROTOCOL}")
    try:
        seq, t, kind = int(body.pop("seq")), float(body.pop("t")), str(body.pop("type"))
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"an event lacks its frame: {error}") from None
    cls = _EVENT_TYPES.get(kind)
    event = Unknown(kind, body) if cls is None else decode(cls, body, ignore_unknown=True)
    return Envelope(seq, t, event)


# ---- dataclass <-> JSON --------------------------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """A dataclass as plain JSON data; tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    return value


def decode(cls: type[T], data: Any, *, ignore_unknown: bool = False) -> T:
    """Plain JSON data as a dataclass. Types and `Bounds` are checked.

    Raises WireError naming the path of the first value that does not fit. A `protocol` field higher than ours is
    refused before anything else is looked at.
    """
    if isinstance(data, dict) and isinstance(data.get("protocol"), int) and data["protocol"] > PROTOCOL:
        raise WireError(f"written by protocol {data['protocol']}, this cloudbooth knows up to {PROTOCOL}")
    return typing.cast(T, _reader(cls)(data, cls.__name__, ignore_unknown))


def loads(cls: type[T], raw: bytes) -> T:
    """`decode` of JSON bytes."""
    return decode(cls, _parse(raw))


def dumps(value: Any) -> bytes:
    """`encode` to stable, human-readable JSON bytes."""
    return (json.dumps(encode(value), indent=1) + "\n").encode()


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError as error:
        raise WireError(f"not JSON: {error}") from None


_Reader = typing.Callable[[Any, str, bool], Any]
"""Value, its path for an error, whether surplus fields are ignored → what the value is in Python."""
_READERS: dict[type, _Reader] = {}
"""Of dataclasses: annotations are taken apart once, since a follower reads thousands of events."""


def _reader(kind: Any) -> _Reader:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return lambda value, _path, _ignore: value
    if origin is Annotated:
        return _bounded(_reader(args[0]), [rule for rule in args[1:] if isinstance(rule, Bounds)])
    if origin is Union:  # only Optional[...] occurs
        inner = _reader(args[0])
        return lambda value, path, ignore: None if value is None else inner(value, path, ignore)
    if origin is Literal:
        return _one_of(args)
    if origin in (tuple, list):
        return _items(_reader(args[0]))
    if origin is dict:
        return lambda value, _path, _ignore: dict(value)
    if dataclasses.is_dataclass(kind):
        if kind not in _READERS:
            _READERS[typing.cast(type, kind)] = _fields(kind)
        return _READERS[typing.cast(type, kind)]
    return _plain(kind)


def _bounded(inner: _Reader, rules: list[Bounds]) -> _Reader:
    def read(value: Any, path: str, ignore: bool) -> Any:
        built = inner(value, path, ignore)
        for rule in rules:
            broken = rule.violation(built) if built is not None else None
            if broken:
                raise WireError(f"{path}: {broken}, is {built!r}")
        return built

    return read


def _one_of(known: tuple[Any, ...]) -> _Reader:
    def read(value: Any, path: str, _ignore: bool) -> Any:
        if value not in known:
            raise WireError(f"{path}: must be one of {', '.join(map(repr, known))}, is {value!r}")
        return value

    return read


def _items(inner: _Reader) -> _Reader:
    def read(value: Any, path: str, ignore: bool) -> Any:
        if not isinstance(value, (list, tuple)):
            raise WireError(f"{path}: must be a list, is {value!r}")
        return tuple([inner(item, f"{path}[{i}]", ignore) for i, item in enumerate(value)])

    return read


def _plain(kind: Any) -> _Reader:
    def read(value: Any, path: str, _ignore: bool) -> Any:
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise WireError(f"{path}: must be {kind.__name__}, is {value!r}")
        return value

    return read


def _fields(cls: Any) -> _Reader:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = [
        (f.name, _reader(hints[f.name]), f.default is f.default_factory is dataclasses.MISSING)
        for f in dataclasses.fields(cls)
    ]
    names = {name for name, _, _ in fields}

    def read(value: Any, path: str, ignore: bool) -> Any:
        if not isinstance(value, dict):
            raise WireError(f"{path}: must be an object, is {value!r}")
        known: dict[str, Any] = {}
        for name, inner, required in fields:
            if name in value:
                known[name] = inner(value[name], f"{path}.{name}", ignore)
            elif required:
                raise WireError(f"{path}.{name} is missing")
        surplus = sorted(set(value) - names) if not ignore else ()
        if surplus:
            raise WireError(f"{path}: unknown field {surplus[0]!r}")
        return cls(**known)

    return read


# ---- the run's folder on a host ------------------------------------------------------------------------------------

JOB_FILE = "job.json"
EVENTS_FILE = "events.jsonl"
LOG_FILE = "train.log"
CHECKPOINTS_FOLDER = "checkpoints"
VALIDATION_FOLDER = "validation"
OUTPUT_FOLDER = "output"


def checkpoint_folder(step: int) -> str:
    """`checkpoints/checkpoint-000100`, relative to the run's folder."""
    return f"{CHECKPOINTS_FOLDER}/checkpoint-{step:06d}"
