"""What a hosted training job is: the Protocol `JobProvider` and the data that cross it.

The service has the machines, the environment and the trainer; what is ours are the photos, the settings and the
result. There is no shell, no checkpoint and nothing to resume: a job is submitted once, followed, and fetched or
canceled. Settings keep the keys of the run's spec (`train.steps`); which of them a trainer knows is for the provider to
say, field by field, before anything is spent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NewType, Protocol, runtime_checkable

JobId = NewType("JobId", str)
Value = str | int | float | bool
"""Of a setting, and of a trainer's input."""


class JobStatus(Enum):
    QUEUED = "queued"
    """Accepted; nothing computes yet, and nothing is billed."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    """By somebody's wish, or by the service before it began."""
    UNKNOWN = "unknown"
    """A status word this adapter does not know; the word stands in `Job.status_text`."""

    @property
    def is_over(self) -> bool:
        """Nothing computes and nothing is billed any more."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED)


@dataclass(frozen=True)
class JobWish:
    """What a run wants of a hosted trainer."""

    name: str
    """Of the run; names a destination that has to be made."""
    settings: Mapping[str, Value]
    """By the spec's keys: whatever has a value, defaults included."""
    stated: frozenset[str] = frozenset()
    """Keys whose value is not the default: one that is ignored needs a reason."""
    base: str | None = None
    """`model.base` where it was stated; None: the provider chooses a trainer."""


@dataclass(frozen=True)
class MappedField:
    """What becomes of one key of the spec."""

    key: str
    value: str
    """As it is shown."""
    input: str
    """The trainer's input; empty when the key is ignored."""
    why: str = ""
    """Why it is ignored, or changed on its way."""


@dataclass(frozen=True)
class WeightsLayout:
    """What the archive of a finished job holds."""

    lora: str
    """Name of the LoRA's file, in whatever folder of the archive."""
    names: str
    """How its tensors are named: `diffusers` (as `load_lora_weights` saves them) or `attention-processors` (the older
    way of diffusers, which it still reads)."""
    base: str
    """Hub id of the model that the LoRA belongs to."""
    base_license: str
    """As the hub spells it."""


@dataclass(frozen=True)
class JobQuote:
    """A job as it would be submitted, and what it is expected to take."""

    provider: str
    trainer: str
    """`owner/name`."""
    version: str
    destination: str
    """`owner/name` of the model on the service that gets the result as a version."""
    destination_exists: bool
    inputs: Mapping[str, Value]
    """All but the data set."""
    fields: tuple[MappedField, ...]
    steps: int
    resolution: int
    """Side in pixels for which photos are made ready."""
    usd_per_s: float
    """While it computes; queueing is free."""
    hardware: str
    seconds: tuple[float, float, float]
    """Computing time: low, expected, high."""
    weights: WeightsLayout
    upload_limit_bytes: int
    """Of a data set that goes through the service itself; a larger one needs an URL of one's own."""
    warnings: tuple[str, ...] = ()

    @property
    def expected_usd(self) -> float:
        return self.seconds[1] * self.usd_per_s


@dataclass(frozen=True)
class Job:
    """One look at a job."""

    id: JobId
    tag: str
    """Empty for one that this installation did not submit."""
    status: JobStatus
    status_text: str
    """The service's own word."""
    created_at: float
    """Unix seconds by the service's clock, as the next two."""
    started_at: float | None = None
    completed_at: float | None = None
    computed_s: float | None = None
    """What is billed, once the service has said so."""
    logs: str = ""
    """All of them up to now."""
    error: str = ""
    weights_url: str = field(default="", repr=False)
    """May be signed."""
    result: str = ""
    """What the service calls the trained model: `owner/name:version`."""
    web_url: str = ""


@runtime_checkable
class JobProvider(Protocol):
    """Takes hosted training jobs. Every method is one or a few bounded exchanges: no sleeping, no waiting for states.

    All raise AuthRejected, QuotaExceeded and Transient as the service answers; further errors stand at the method.
    """

    name: str

    def quote(self, wish: JobWish) -> JobQuote:
        """Changes nothing. Raises CloudboothError for what no trainer can do, for a version that the service does not
        have, and for settings out of a trainer's range.
        """
        ...

    def upload(self, file: Path, name: str) -> str:
        """Lends a zip file to the service and returns the URL by which a job reads it. Not billed; twice is safe."""
        ...

    def forget_upload(self, tag: str) -> None:
        """Removes what was uploaded for the job of this tag, if the service still has it. Twice is safe."""
        ...

    def make_destination(self, quote: JobQuote) -> bool:
        """Makes sure that `quote.destination` exists; a new one is private. Whether it was made now. Twice is safe."""
        ...

    def submit(self, quote: JobQuote, dataset_url: str, tag: str) -> JobId:
        """Submits once under `tag`, and nobody repeats it. `dataset_url` must be one that no other job was given.

        Raises NoCapacity when certainly nothing was submitted and a later attempt may succeed, Indeterminate when it
        is not certain; `list(tag)` then tells. Any other CloudboothError says that nothing was submitted.
        """
        ...

    def poll(self, job: JobId) -> Job:
        """One look. Raises MachineGone when the service says that there is no such job."""
        ...

    def list(self, prefix: str) -> Sequence[Job]:
        """Every job that this installation submitted under such a tag, the finished ones included, newest first."""
        ...

    def cancel(self, job: JobId) -> None:
        """Ends it. Over or unknown already is success; twice is safe. Later looks tell whether it is over."""
        ...

    def fetch(self, job: Job, archive: Path, received: Callable[[int, int | None], None]) -> None:
        """Downloads the weights of a job that succeeded into `archive`, complete when it returns.

        `received` hears (bytes so far, total or None). Raises CloudboothError when the service does not have them.
        """
        ...


@dataclass(frozen=True)
class PredictionWish:
    """One picture of a trained model. None leaves a value to the model."""

    prompt: str
    negative: str
    seed: int
    width: int | None
    height: int | None
    steps: int | None
    guidance: float | None


@dataclass(frozen=True)
class Prediction:
    id: str
    status: JobStatus
    status_text: str
    pictures: tuple[str, ...] = field(default=(), repr=False)
    """Addresses, which die within the hour."""
    error: str = ""
    web_url: str = ""
    computed_s: float | None = None
    """What is billed, once the service has said so."""


@runtime_checkable
class HasPredictions(Protocol):
    """The service runs the models that it has trained. A prediction bills a few cents and ends by itself."""

    name: str
    price_hint: str
    """What a picture costs about, as words."""

    def predict(self, model: str, wish: PredictionWish) -> str:
        """Asks once for a picture of `owner/name:version` and returns the prediction's id. Raises Indeterminate."""
        ...

    def find_prediction(
        self, model: str, wish: PredictionWish, since: float, known: Collection[str]
    ) -> Prediction | None:
        """The newest that was asked for just so, at `since` (Unix seconds) or later, and is none of `known`: one whose
        answer was lost. None when the service shows none. Reads its list back to that moment.
        """
        ...

    def cancel_prediction(self, prediction: str) -> None:
        """Ends it. Over or unknown already is success; twice is safe."""
        ...

    def prediction_usd_per_s(self, base: str) -> float | None:
        """What a second of computing costs for a model that was trained on `base`; None where that is not known. No
        exchange.
        """
        ...

    def prediction(self, prediction: str) -> Prediction:
        """One look. Raises MachineGone when the service says that there is none."""
        ...

    def picture(self, url: str) -> bytes: ...
