"""What happens on a host, one line of `events.jsonl` each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Optional, Union

from .codec import PROTOCOL, WireError, decode, encode, parse
from .files import FileEntry
from .plain_text import plain_data


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
    """storage, environment, load, captions, class-images, encode, train, evaluate, checkpoint, validate, export,
    verify."""
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


def best_step(evaluations: Iterable[Evaluated]) -> int:
    """Of the lowest loss; of equal ones the earliest, which is the least trained. 0 without any."""
    best = min(evaluations, key=lambda evaluation: (evaluation.mean_loss, evaluation.step), default=None)
    return 0 if best is None else best.step


def best_checkpoint(evaluations: Iterable[Evaluated]) -> int:
    """As `best_step`, of what was trained: step 0 is the base as it came, of which there is no checkpoint."""
    return best_step(evaluation for evaluation in evaluations if evaluation.step > 0)


def best_checkpoint_in(state: bytes) -> int:
    """As `best_checkpoint`, by a checkpoint's own `STATE_FILE`, which tells of all evaluations before it; 0 where it
    tells of none.
    """
    try:
        return best_checkpoint([decode(Evaluated, each) for each in parse(state)["evaluations"]])
    except (WireError, KeyError, TypeError):
        return 0


@dataclass(frozen=True)
class SampleMade:
    TYPE: ClassVar[str] = "sample"
    step: int
    prompt: str
    file: FileEntry
    """Path relative to the run's folder."""


@dataclass(frozen=True)
class Captioned:
    """The captioner has described a picture. The laptop writes the caption beside the photo that it is of."""

    TYPE: ClassVar[str] = "caption"
    dataset: str
    """Its id."""
    file: str
    """The picture's `ImageSpec.file`."""
    caption: str
    """As it is trained, the prompt included."""


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
    "export-mismatch", "stalled", "trainer-killed", "no-gpu", "storage", "class-images", "captions", "internal",
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
    Hello, PhaseStarted, Decision, StepDone, Evaluated, SampleMade, Captioned, CheckpointCommitted, Uploaded, Warned,
    Heartbeat, SelfReleased, Failed, Stopped, Done, Unknown,
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
        Captioned,
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


LATEST_S = 1e11
"""Unix seconds, three thousand years from now: later ones no calendar here can tell."""


def decode_event(line: bytes) -> Envelope:
    """Its texts plain. Raises WireError for broken JSON, a missing field or a higher version; unknown types and fields
    pass.
    """
    body = plain_data(parse(line))
    if not isinstance(body, dict):
        raise WireError("an event is not a JSON object")
    version = body.pop("v", None)
    if not isinstance(version, int) or version > PROTOCOL:
        raise WireError(f"the host speaks event version {version}, this cloudbooth knows up to {PROTOCOL}")
    try:
        seq, t, kind = int(body.pop("seq")), float(body.pop("t")), str(body.pop("type"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise WireError(f"an event lacks its frame: {error}") from None
    if not 0 <= t < LATEST_S:
        raise WireError(f"an event lacks its frame: nothing has happened at {t}")
    cls = _EVENT_TYPES.get(kind)
    event = Unknown(kind, body) if cls is None else decode(cls, body, ignore_unknown=True)
    return Envelope(seq, t, event)
