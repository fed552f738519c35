"""What goes wrong in one simulated run, drawn from a seed: the same seed, the same schedule.

A fault waits for its occasion and strikes when it can: at a passage (a driver goes through a seam, before or after its
effect), or some seconds after something has happened on a machine; those of the cloud wait there. In a chain each is
armed when the one before it has struck; otherwise all wait from the beginning. Three of four schedules are chains from
a design (`tests.simulation.chains`) in which every kind comes after every other equally often.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random

from providers.testing.faults import CloudFault, Mishap
from providers.testing.simulated_cloud import SHELVES
from tests.simulation.chains import designed
from tests.simulation.kinds import AT_STORE, NEEDS_STOP, TODAY, Kind, WorldFault

MOST_FAULTS = 8
STANDING_SHARE = 0.5
"""Of those that are drawn freely: one of eight in all."""
SLOW_SHARE = 0.03
SLOW_LINE_SHARE = 0.05
DEADLINE_SHARE = 0.15
KEEPING_SHARE = 0.12
STORAGE_SHARE = 0.1
"""Of the schedules without a fault of the store; those with one have a store."""
LONGEST_SLEEP = 4.5
"""As a power of ten of seconds: nearly nine hours."""
UNDISTURBED_EVERY = 20
FAR_AWAY_USD = 50.0

_RENTED_ONLY = frozenset({*CloudFault, WorldFault.HOST_GONE, WorldFault.HOST_DEAD})
_CALLS: dict[str, int] = {
    "ledger": 20, "offers": 2, "create": 1, "describe": 12, "list": 2, "release": 1, "sleep": 12,
    "run probe": 6, "send unpack": 1, "run status": 5, "run have": 3, "send accept": 3, "run start": 1,
    "run stop": 1, "receive follow": 3, "receive read": 6, "chunk follow": 20, "chunk read": 10,
}  # fmt: skip
"""Seams that a driver goes through, and about how often one run does."""
_WITH_STORAGE = {"store": 20, "run grant": 1}
_ON_STANDING_MACHINES = {"run forget": 1}
AT_HOST = ("run", "send", "receive", "chunk")
_AT_PASSAGE = frozenset(
    {WorldFault.DRIVER_KILLED, WorldFault.ASLEEP, WorldFault.TWO_DRIVERS, WorldFault.CUT, WorldFault.DAMAGED,
     WorldFault.OVERTAKEN_UNAWARE}
)  # fmt: skip


class Occasion(Enum):
    """What happens on a machine and may be followed by a fault."""

    BOOT = "it answers"
    STAGE = "a stage begins"
    LOOP = "training steps begin"
    CHECKPOINT = "a checkpoint is committed"
    EXPORT = "the export begins"
    OVER = "the supervisor has had its last word"


_OCCASIONS: dict[WorldFault, tuple[Occasion, ...]] = {
    WorldFault.TRAINER_KILLED: (Occasion.STAGE, Occasion.LOOP, Occasion.CHECKPOINT, Occasion.EXPORT),
    WorldFault.SUPERVISOR_KILLED: (Occasion.STAGE, Occasion.LOOP, Occasion.CHECKPOINT, Occasion.EXPORT),
    WorldFault.TRAINER_HANGS: (Occasion.LOOP, Occasion.CHECKPOINT),
    WorldFault.URLS_DEAD: (Occasion.LOOP, Occasion.CHECKPOINT),
    WorldFault.UPLOAD_CUT: (Occasion.STAGE, Occasion.LOOP, Occasion.CHECKPOINT),
    WorldFault.UPLOAD_ALTERED: (Occasion.STAGE, Occasion.LOOP, Occasion.CHECKPOINT),
}
"""Where a kind can strike; any occasion where nothing is said."""


@dataclass(frozen=True)
class AtPassage:
    kind: WorldFault
    point: str
    """`create:before`, `run start:after`, `chunk follow:before`."""
    nth: int
    """From 1, counted from when it is armed, over all drivers."""
    length_s: float
    """Of a sleep, or of the pause until the next driver."""


@dataclass(frozen=True)
class AtMachine:
    kind: WorldFault
    occasion: Occasion
    delay_s: float
    length_s: float
    """How long it lasts; of a wrong date, by how much."""


Planned = Mishap | AtPassage | AtMachine


@dataclass(frozen=True)
class Training:
    """The job, in numbers."""

    steps: int
    step_s: float
    checkpoint_every: int
    deadline_s: float | None
    commit_s: float = 0.5
    """What a checkpoint takes."""
    chunk_s: float = 0.005
    """What half a kilobyte takes on its way there."""


@dataclass(frozen=True)
class Abilities:
    """What the provider can do beside renting."""

    stops: bool = True
    machines_stop_themselves: bool = True
    machines_end_themselves: bool = True


ABILITIES = (Abilities(), Abilities(), Abilities(), Abilities(stops=False, machines_stop_themselves=False),
             Abilities(machines_stop_themselves=False, machines_end_themselves=False))  # fmt: skip


@dataclass(frozen=True)
class Schedule:
    seed: int
    standing: bool
    """The machine is the user's own: it outlives its rentals, as with `ssh` and `local`."""
    training: Training
    boot_s: float
    faults: tuple[Planned, ...]
    abilities: Abilities
    price_factor: float
    """Of what a small machine costs."""
    max_cost_usd: float
    courier: bool
    """Checkpoints come home while training goes on; otherwise the link is too slow for that."""
    chained: bool
    """Each of `faults` is armed when the one before it has struck; otherwise all from the beginning."""
    storage: bool
    """The run has a store, which the machine uploads to."""
    keep_minutes: float = 0.0
    """How long a machine is kept warm after its run."""
    slow: float = 1.0
    """How much slower than was quoted the cheapest kind of machine is."""


def draw(seed: int, kinds: tuple[Kind, ...] = TODAY) -> Schedule:
    """What the design says for the seed, or up to `MOST_FAULTS` of `kinds`; some schedules have none."""
    random = Random(seed)
    chain = designed(seed) if kinds == TODAY else ()
    standing = not chain and random.random() < STANDING_SHARE
    slow = not chain and not standing and random.random() < SLOW_SHARE
    training = Training(
        steps=40 if slow else random.randint(7, 11),
        step_s=random.uniform(0.8, 2.5),
        checkpoint_every=random.randint(2, 4),
        deadline_s=random.uniform(20, 80) if not slow and random.random() < DEADLINE_SHARE else None,
        commit_s=random.choice((0.2, 0.5, 0.5, 1.0, 1.0, 45.0)),
        chunk_s=random.choice((0.5, 2.0)) if random.random() < SLOW_LINE_SHARE else 0.005,
    )
    usable = [kind for kind in kinds if not (standing and kind in _RENTED_ONLY)]
    count = 0 if seed % UNDISTURBED_EVERY == 0 or not usable else random.randint(1, MOST_FAULTS)
    chosen = list(chain) or (random.choices(usable, k=count) if count else [])
    chained = bool(chain) or random.random() < 0.5
    storage = not AT_STORE.isdisjoint(chosen) or random.random() < STORAGE_SHARE
    stops = not NEEDS_STOP.isdisjoint(chosen)
    factor, slowness = random.choice((1.0, 1.0, 4.0, 12.0)), random.uniform(100, 200) if slow else 1.0
    return Schedule(
        seed,
        standing,
        training,
        0.0 if standing else random.uniform(3, 12),
        tuple(_planned(random, kind, standing, storage) for kind in (chosen if chained else _with_stops(chosen))),
        ABILITIES[-2] if slow else _abilities(random, chosen),  # nothing is kept back for a stopped disk
        factor,
        _too_little_usd(training, slowness, factor)
        if slow
        else random.choice((FAR_AWAY_USD, random.uniform(1, 3), random.uniform(1, 3), random.uniform(0.3, 0.7))),
        (random.random() < 0.7 or WorldFault.DAMAGED in chosen) and not stops,  # a rescue needs something to rescue
        chained,
        storage,
        random.uniform(1, 30) if random.random() < KEEPING_SHARE else 0.0,
        slowness,
    )


def _too_little_usd(training: Training, slowness: float, factor: float) -> float:
    """Pays for the steps that show the pace, and not for as many again."""
    return 1.75 * 20 * training.step_s * slowness / 3600 * factor * SHELVES[0].spot_usd


def _abilities(random: Random, chosen: list[Kind]) -> Abilities:
    if not NEEDS_STOP.isdisjoint(chosen):
        return Abilities()
    if CloudFault.KEY_REFUSED in chosen:
        return random.choice(ABILITIES[:-1])
    return random.choice(ABILITIES)


def _with_stops(chosen: list[Kind]) -> list[Kind]:
    """Where nobody looks for an occasion: what strikes a stopped machine needs a stop."""
    return [each for kind in chosen for each in ([CloudFault.OUTBID, kind] if kind in NEEDS_STOP else [kind])]


def _planned(random: Random, kind: Kind, standing: bool, storage: bool) -> Planned:
    if kind is CloudFault.OUTBID:
        return Mishap(kind, 0, random.uniform(0.1, 35))  # also when there is something to keep
    if isinstance(kind, CloudFault):
        return Mishap.drawn(random, kind)
    if kind in _AT_PASSAGE:
        return _at_passage(random, kind, standing, storage)
    occasion = random.choice(_OCCASIONS.get(kind, tuple(Occasion)))
    length_s = random.uniform(5, 600)
    if kind is WorldFault.CLOCK_SKEW:
        length_s = random.choice((-1, 1)) * 10 ** random.uniform(0, 8)
    return AtMachine(kind, occasion, 10 ** random.uniform(-1, 1), length_s)


def _at_passage(random: Random, kind: WorldFault, standing: bool, storage: bool) -> AtPassage:
    length_s = 10 ** random.uniform(0, LONGEST_SLEEP)
    if kind is WorldFault.DAMAGED:
        return AtPassage(kind, "chunk read:before", random.randint(1, _CALLS["chunk read"]), length_s)
    calls = _CALLS | (_ON_STANDING_MACHINES if standing else {}) | (_WITH_STORAGE if storage else {})
    if kind is WorldFault.CUT:
        calls = {name: often for name, often in calls.items() if name.split()[0] in AT_HOST}
    name = random.choice(list(calls))
    return AtPassage(kind, f"{name}:{random.choice(('before', 'after'))}", random.randint(1, calls[name]), length_s)
