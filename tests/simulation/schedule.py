"""What goes wrong in one simulated run, drawn from a seed: the same seed, the same schedule.

A fault strikes at a passage (the n-th time that a driver goes through a seam, before or after its effect) or at a
moment of the virtual clock. `BEYOND_TODAY` are those against which the product promises nothing yet; they are drawn
only when asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random

from providers.testing.faults import CloudFault, Faults


class WorldFault(Enum):
    DRIVER_KILLED = "the driver is killed"
    ASLEEP = "the laptop sleeps for hours"
    TWO_DRIVERS = "another process takes the run over in the middle of a call"
    CUT = "the connection is cut in the middle of a call"
    DAMAGED = "bytes come from the host's disk damaged"
    UNREACHABLE = "the host cannot be reached for a while"
    DISK_FULL = "the host's disk is full for a while"
    SUPERVISOR_KILLED = "the supervisor is killed"
    TRAINER_KILLED = "the trainer is killed"
    TRAINER_HANGS = "the trainer hangs in its loop"
    CONTAINER_RESTARTED = "the provider restarts the container: its processes are gone, its disk is not"
    HOST_GONE = "the host dies, and the provider notices minutes later"
    CLOCK_SKEW = "the host's date is wrong"
    USER_STOPS = "the user asks for `stop`"
    USER_ENDS = "the user asks for `down`"
    OVERTAKEN_UNAWARE = "the same in a stream of events, before a create, or until the run's folder is removed"
    HOST_DEAD = "the host dies, and the provider never notices"


Kind = CloudFault | WorldFault

BEYOND_TODAY: frozenset[Kind] = frozenset(
    {
        CloudFault.LISTED_LATE,
        WorldFault.OVERTAKEN_UNAWARE,
    }
)
ALL_KINDS: tuple[Kind, ...] = (*CloudFault, *WorldFault)
TODAY: tuple[Kind, ...] = tuple(kind for kind in ALL_KINDS if kind not in BEYOND_TODAY)

LEFT_TO_THE_PRODUCT: frozenset[Kind] = frozenset(
    {
        CloudFault.PREEMPTED, CloudFault.NEVER_READY, CloudFault.SLOW_BOOT, CloudFault.DEARER, CloudFault.LOST_ANSWER,
        CloudFault.LOST_REQUEST, CloudFault.RATE_LIMITED, CloudFault.SERVER_ERROR, CloudFault.FALSE_ABSENCE,
        CloudFault.PREEMPTED_WITH_NOTICE, WorldFault.CLOCK_SKEW, WorldFault.DRIVER_KILLED, WorldFault.SUPERVISOR_KILLED,
        WorldFault.TRAINER_KILLED, WorldFault.ASLEEP,
        WorldFault.HOST_GONE,
        WorldFault.UNREACHABLE,
        WorldFault.HOST_DEAD,
    }
)  # fmt: skip
"""After these alone nobody has to do more than attach."""

_PASSAGES: dict[str, int] = {
    "ledger": 20, "offers": 2, "create": 1, "describe": 12, "list": 2, "release": 1, "sleep": 12,
    "run probe": 6, "send unpack": 1, "run status": 5, "run have": 3, "send accept": 3, "run start": 1,
    "run stop": 1, "run forget": 1, "receive follow": 3, "receive read": 6, "chunk follow": 90, "chunk read": 10,
}  # fmt: skip
"""Every seam a driver goes through, and about how often one run does."""
_AT_HOST = [name for name in _PASSAGES if name.split()[0] in ("run", "send", "receive", "chunk")]
_AT_PASSAGE = (WorldFault.DRIVER_KILLED, WorldFault.ASLEEP, WorldFault.TWO_DRIVERS, WorldFault.CUT, WorldFault.DAMAGED,
               WorldFault.OVERTAKEN_UNAWARE)  # fmt: skip


@dataclass(frozen=True)
class AtPassage:
    kind: WorldFault
    point: str
    """`create:before`, `run start:after`, `chunk follow:before`."""
    nth: int
    """From 1, counted over all drivers of the run."""
    length_s: float
    """Of a sleep, or of the pause until the next driver."""


@dataclass(frozen=True)
class AtMoment:
    kind: WorldFault
    at_s: float
    length_s: float


@dataclass(frozen=True)
class Training:
    """The job, in numbers."""

    steps: int
    step_s: float
    checkpoint_every: int
    deadline_s: float | None


@dataclass(frozen=True)
class Schedule:
    seed: int
    standing: bool
    """The machine is the user's own: it outlives its rentals, as with `ssh` and `local`."""
    training: Training
    boot_s: float
    skew_s: float
    cloud: Faults
    passages: tuple[AtPassage, ...]
    moments: tuple[AtMoment, ...]


def draw(seed: int, kinds: tuple[Kind, ...] = TODAY) -> Schedule:
    """Up to eight faults of `kinds`; every twentieth schedule has none and is the undisturbed run."""
    random = Random(seed)
    standing = random.random() < 0.25
    training = Training(
        steps=random.randint(6, 14),
        step_s=random.uniform(1.5, 4.0),
        checkpoint_every=random.randint(2, 5),
        deadline_s=random.choice((None, None, None, random.uniform(30, 120))),
    )
    usable = [kind for kind in kinds if not (standing and isinstance(kind, CloudFault))]
    count = 0 if seed % 20 == 0 or not usable else random.randint(1, 8)
    chosen = [random.choice(usable) for _ in range(count)]
    cloud = Faults.drawn(random, [kind for kind in chosen if isinstance(kind, CloudFault)])
    passages, moments = [], []
    skew_s = 0.0
    for kind in chosen:
        if isinstance(kind, CloudFault):
            continue
        if kind is WorldFault.CLOCK_SKEW:
            skew_s = random.choice((-1, 1)) * 10 ** random.uniform(0, 8)
        elif kind in _AT_PASSAGE:
            passages.append(_at_passage(random, kind))
        else:
            moments.append(AtMoment(kind, random.uniform(0, 150), random.uniform(5, 600)))
    return Schedule(
        seed, standing, training, 0.0 if standing else random.uniform(5, 60), skew_s, cloud, tuple(passages),
        tuple(moments),
    )  # fmt: skip


def _at_passage(random: Random, kind: WorldFault) -> AtPassage:
    length_s = 10 ** random.uniform(0, 4)
    if kind is WorldFault.DAMAGED:
        return AtPassage(kind, "chunk read:before", random.randint(1, _PASSAGES["chunk read"]), length_s)
    name = random.choice(_AT_HOST if kind is WorldFault.CUT else list(_PASSAGES))
    side = random.choice(("before", "after"))
    return AtPassage(kind, f"{name}:{side}", random.randint(1, _PASSAGES[name]), length_s)
