"""What goes wrong in a simulated cloud, as values: given equal faults, a simulation takes the same course.

A `Mishap` waits for its occasion (a create, a look, any call, a machine) and strikes once. Which occasion that is, and
what `amount` means, stands at its kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random


class CloudFault(Enum):
    LOST_ANSWER = "create succeeds, its answer is lost"
    LOST_REQUEST = "create is lost on its way"
    NO_CAPACITY = "create finds nothing left"
    SOLD_OUT = "nothing at all is for rent for a while"
    """From the next look at the offers on; `amount` is in seconds."""
    LISTED_LATE = "create's answer is lost, and its machine shows in no list for minutes"
    """The next create; `amount` is in seconds."""
    DEARER = "the price at create is above the quote"
    """The next create; `amount` is a multiple of the price."""
    SLOW_BOOT = "a machine boots slowly"
    """The next create; `amount` is in seconds."""
    NEVER_READY = "a machine never answers"
    NO_GPU = "a machine comes up without its GPU"
    KEY_REFUSED = "a machine's own key is refused when it gives itself back"
    """The next create makes such a machine; it strikes when the machine calls."""
    RATE_LIMITED = "429 with Retry-After"
    """The next call; `amount` is in seconds."""
    SERVER_ERROR = "5xx"
    OUTAGE = "the service is down for minutes"
    """From the next call on; `amount` is in seconds."""
    FALSE_ABSENCE = "one look finds a living machine absent"
    PREEMPTED = "pre-empted without notice"
    PREEMPTED_WITH_NOTICE = "pre-empted with notice"
    """`amount` is how many seconds before."""
    OUTBID = "a spot machine is stopped by the provider, its disk kept and billed"
    NO_RESTART = "a stopped machine finds no free GPU when it is started again"
    DISK_VANISHES = "a stopped machine is given away, its disk with it"


AT_CREATE = frozenset(
    {
        CloudFault.LOST_ANSWER, CloudFault.LOST_REQUEST, CloudFault.NO_CAPACITY, CloudFault.LISTED_LATE,
        CloudFault.DEARER, CloudFault.SLOW_BOOT, CloudFault.NEVER_READY, CloudFault.NO_GPU, CloudFault.KEY_REFUSED,
    }
)  # fmt: skip
TAKES_MACHINE = frozenset({CloudFault.PREEMPTED, CloudFault.PREEMPTED_WITH_NOTICE, CloudFault.OUTBID})
"""Their occasion is a machine that answers: one that does when they are armed, else the next."""


@dataclass(frozen=True)
class Mishap:
    kind: CloudFault
    skip: int = 0
    """Occasions that pass before it strikes."""
    delay_s: float = 0.0
    """From the occasion to the strike, of those that take a machine or its disk."""
    amount: float = 0.0

    @classmethod
    def drawn(cls, random: Random, kind: CloudFault) -> Mishap:
        amount = {
            CloudFault.LISTED_LATE: random.choice((random.uniform(1, 170), random.uniform(170, 3600))),
            CloudFault.DEARER: random.uniform(1.01, 2.0),
            CloudFault.SLOW_BOOT: random.uniform(60, 400),
            CloudFault.RATE_LIMITED: float(random.randint(1, 60)),
            CloudFault.OUTAGE: random.uniform(20, 400),
            CloudFault.SOLD_OUT: random.choice((random.uniform(10, 300), random.uniform(300, 5000))),
            CloudFault.PREEMPTED_WITH_NOTICE: random.choice((5.0, 30.0)),
        }.get(kind, 0.0)
        if kind in AT_CREATE or kind in (CloudFault.NO_RESTART, CloudFault.SOLD_OUT):
            return cls(kind, 0, 0.0, amount)
        if kind in TAKES_MACHINE:
            return cls(kind, 0, 10 ** random.uniform(-1, 1.3), amount)
        if kind is CloudFault.DISK_VANISHES:
            return cls(kind, 0, random.uniform(0, 8), amount)
        return cls(kind, int(random.expovariate(1 / 4)), 0.0, amount)
