"""What a report tells, as values: the keys of `report --json`, and all that the template sees."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.ranges import Range
from remote_trainer.wire import Decision


@dataclass(frozen=True)
class StepPoint:
    step: int
    loss: float
    lr: float


@dataclass(frozen=True)
class LossPoint:
    """The mean loss on the fixed set, comparable between steps."""

    step: int
    loss: float


@dataclass(frozen=True)
class Sample:
    """A validation picture that lies on this laptop."""

    step: int
    path: str


@dataclass(frozen=True)
class SampleSeries:
    """The pictures of one validation prompt, by step."""

    prompt: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Score:
    """What a judge of the user's own has counted, with its interval."""

    name: str
    step: int
    value: float
    low: float
    high: float
    n: int
    """Of how many pictures."""


@dataclass(frozen=True)
class Judgement:
    """The content of `validation/scores.json`; the scores in its order."""

    judge: str
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Photo:
    """A photo as it is trained: prepared, without metadata."""

    name: str
    path: str
    caption: str
    """Empty: the prompt of all photos."""


@dataclass(frozen=True)
class StateSpan:
    """A time that the run has spent in one state, by this laptop's clock."""

    state: str
    attempt: int
    start: float
    end: float
    why: str
    """Why it went there."""
    is_interruption: bool

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class HostPhase:
    """What the machines were at, all times of the same name together, each by its own machine's clock."""

    name: str
    seconds: float


@dataclass(frozen=True)
class MachineEntry:
    tag: str
    attempt: int
    provider: str
    gpu: str
    market: str
    price_per_hour_usd: float
    since: float
    until: float | None
    """None while its absence is not confirmed."""
    ended_why: str
    cost_usd: float
    is_billed: bool
    """The cost is the provider's own word, not our count."""


@dataclass(frozen=True)
class Share:
    """A part of the money."""

    label: str
    usd: float


@dataclass(frozen=True)
class Money:
    spent_usd: float
    quote: Range | None
    """In dollars; None where nothing is rented."""
    ceiling_usd: float | None
    by_phase: tuple[Share, ...]
    by_attempt: tuple[Share, ...]


@dataclass(frozen=True)
class Notice:
    """A warning or a failure, with what to do about it."""

    is_failure: bool
    message: str
    hint: str


@dataclass(frozen=True)
class Setting:
    key: str
    value: str


@dataclass(frozen=True)
class ModelFile:
    """A file or folder of the finished model."""

    path: str
    bytes: int
    opens_in: str
    example: str
    """Code to begin with; empty where it is opened by hand."""


@dataclass(frozen=True)
class Place:
    """A file or folder on this laptop."""

    what: str
    path: str


@dataclass(frozen=True)
class Report:
    """A run at one moment."""

    run: str
    at: float
    """When it was collected, in Unix seconds."""
    state: str
    reason: str | None
    """Why it ended; None while it lasts."""
    attempt: int
    base: str
    method: str
    instance_prompt: str
    created_at: float
    ended_at: float | None
    step: int
    of: int
    eta_s: float | None
    active_s: float
    """From each attempt's beginning to its end or to now."""
    steps: tuple[StepPoint, ...]
    losses: tuple[LossPoint, ...]
    samples: tuple[SampleSeries, ...]
    judgement: Judgement | None
    """None where nobody has judged the pictures."""
    photos: tuple[Photo, ...]
    spans: tuple[StateSpan, ...]
    host_phases: tuple[HostPhase, ...]
    machines: tuple[MachineEntry, ...]
    money: Money
    notices: tuple[Notice, ...]
    settings: tuple[Setting, ...]
    decisions: tuple[Decision, ...]
    """Of the plan, then of the machines."""
    environment: tuple[Setting, ...]
    model_files: tuple[ModelFile, ...]
    places: tuple[Place, ...]

    @property
    def has_ended(self) -> bool:
        return self.ended_at is not None
