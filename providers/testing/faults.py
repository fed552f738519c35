"""What goes wrong in a simulated cloud, as a value: given equal faults, a simulation takes the same course.

Calls, machines and looks are counted from 1. A look is a `describe` or `list` that would have shown a machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from random import Random


class CloudFault(Enum):
    LOST_ANSWER = "create succeeds, its answer is lost"
    LOST_REQUEST = "create is lost on its way"
    LISTED_LATE = "a machine shows in no list for minutes"
    NO_CAPACITY = "create finds nothing left"
    RATE_LIMITED = "429 with Retry-After"
    SERVER_ERROR = "5xx"
    OUTAGE = "the service is down for minutes"
    DEARER = "the price at create is above the quote"
    SLOW_BOOT = "a machine boots slowly"
    NEVER_READY = "a machine never answers"
    FALSE_ABSENCE = "one look finds a living machine absent"
    PREEMPTED = "pre-empted without notice"
    PREEMPTED_WITH_NOTICE = "pre-empted with notice"


@dataclass(frozen=True)
class Outage:
    """Every call in this span fails. Seconds of the clock's monotonic time."""

    begin_s: float
    length_s: float

    def covers(self, moment_s: float) -> bool:
        return self.begin_s <= moment_s < self.begin_s + self.length_s


@dataclass(frozen=True)
class Preemption:
    machine: int
    after_s: float
    """Since its creation."""
    notice_s: float | None
    """None: without a word. The machine is told this long before."""


@dataclass(frozen=True)
class Faults:
    """The default is a cloud without any."""

    lost_answers: frozenset[int] = frozenset()
    """Creates that rent a machine and raise Indeterminate."""
    lost_requests: frozenset[int] = frozenset()
    """Creates that rent nothing and raise Indeterminate."""
    without_capacity: frozenset[int] = frozenset()
    """Creates that raise NoCapacity."""
    listed_late_s: Mapping[int, float] = field(default_factory=dict)
    """Machine → seconds during which `list` does not show it."""
    rate_limited: Mapping[int, float] = field(default_factory=dict)
    """Call → the `retry_after_s` of the Transient it raises."""
    server_errors: frozenset[int] = frozenset()
    """Calls that raise Transient."""
    outages: tuple[Outage, ...] = ()
    dearer: Mapping[int, float] = field(default_factory=dict)
    """Machine → what it costs, as a multiple of its offer's price."""
    slow_boots_s: Mapping[int, float] = field(default_factory=dict)
    """Machine → seconds that its boot takes longer."""
    never_ready: frozenset[int] = frozenset()
    false_absences: frozenset[int] = frozenset()
    """Looks that find a living machine absent."""
    preemptions: tuple[Preemption, ...] = ()

    @classmethod
    def drawn(cls, random: Random, kinds: Iterable[CloudFault]) -> Faults:
        """One fault for each of `kinds`, mostly early, since most runs rent one or two machines."""
        faults = cls()
        for kind in kinds:
            faults = faults._with(kind, random)
        return faults

    def _with(self, kind: CloudFault, random: Random) -> Faults:
        machine = random.choice((1, 1, 1, 2))
        call = 1 + int(random.expovariate(1 / 12))
        match kind:
            case CloudFault.LOST_ANSWER:
                return replace(self, lost_answers=self.lost_answers | {machine})
            case CloudFault.LOST_REQUEST:
                return replace(self, lost_requests=self.lost_requests | {machine})
            case CloudFault.LISTED_LATE:
                return replace(self, listed_late_s={**self.listed_late_s, machine: random.uniform(1, 300)})
            case CloudFault.NO_CAPACITY:
                return replace(self, without_capacity=self.without_capacity | {machine})
            case CloudFault.RATE_LIMITED:
                return replace(self, rate_limited={**self.rate_limited, call: float(random.randint(1, 60))})
            case CloudFault.SERVER_ERROR:
                return replace(self, server_errors=self.server_errors | {call})
            case CloudFault.OUTAGE:
                outage = Outage(random.uniform(0, 250), random.uniform(20, 400))
                return replace(self, outages=(*self.outages, outage))
            case CloudFault.DEARER:
                return replace(self, dearer={**self.dearer, machine: random.uniform(1.01, 2.0)})
            case CloudFault.SLOW_BOOT:
                return replace(self, slow_boots_s={**self.slow_boots_s, machine: random.uniform(60, 400)})
            case CloudFault.NEVER_READY:
                return replace(self, never_ready=self.never_ready | {machine})
            case CloudFault.FALSE_ABSENCE:
                return replace(self, false_absences=self.false_absences | {call})
            case CloudFault.PREEMPTED:
                taken = Preemption(machine, random.uniform(0, 250), None)
                return replace(self, preemptions=(*self.preemptions, taken))
            case CloudFault.PREEMPTED_WITH_NOTICE:
                taken = Preemption(machine, random.uniform(30, 250), random.choice((5.0, 30.0)))
                return replace(self, preemptions=(*self.preemptions, taken))
