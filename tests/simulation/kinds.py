"""Everything that can go wrong, by name. What the cloud does stands in `providers.testing.faults`.

`BEYOND_TODAY` are those against which the product promises nothing yet; they are drawn only when asked for.
"""

from __future__ import annotations

from enum import Enum

from providers.testing.faults import CloudFault


class WorldFault(Enum):
    DRIVER_KILLED = "the driver is killed"
    ASLEEP = "the laptop sleeps for hours"
    TWO_DRIVERS = "another process takes the run over in the middle of a call"
    CUT = "the connection is cut in the middle of a call"
    DAMAGED = "bytes come from the host's disk damaged"
    UNREACHABLE = "the host cannot be reached for a while"
    OFFLINE = "the laptop has no network for a while"
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
    GUARD_KILLED = "the guard is killed"
    STORE_UNREACHABLE = "the object store cannot be reached for a while"
    URLS_DEAD = "the URLs that a machine was given die before their time"
    UPLOAD_CUT = "an upload to the store is cut"
    UPLOAD_ALTERED = "an upload arrives in the store altered"
    UPLOADER_KILLED = "what uploads is killed before or after one of its requests"
    LAPTOP_FULL = "the laptop's disk is full for a while"


Kind = CloudFault | WorldFault

AT_STORE: frozenset[Kind] = frozenset(
    {
        WorldFault.STORE_UNREACHABLE, WorldFault.URLS_DEAD, WorldFault.UPLOAD_CUT, WorldFault.UPLOAD_ALTERED,
        WorldFault.UPLOADER_KILLED,
    }
)  # fmt: skip
BEYOND_TODAY: frozenset[Kind] = frozenset()
ALL_KINDS: tuple[Kind, ...] = (*CloudFault, *WorldFault)
TODAY: tuple[Kind, ...] = tuple(kind for kind in ALL_KINDS if kind not in BEYOND_TODAY)

NEEDS_STOP: frozenset[Kind] = frozenset({CloudFault.NO_RESTART, CloudFault.DISK_VANISHES})
"""They strike a machine that is stopped."""
NEEDS_CALL: frozenset[Kind] = frozenset(
    {CloudFault.RATE_LIMITED, CloudFault.SERVER_ERROR, CloudFault.OUTAGE, CloudFault.FALSE_ABSENCE}
)
"""They strike a call to the provider: whoever has lost a connection makes one."""
LOSSES: tuple[Kind, ...] = (CloudFault.PREEMPTED, CloudFault.PREEMPTED_WITH_NOTICE, WorldFault.HOST_GONE)
"""After them another machine is made, which everything else of the cloud strikes."""
LASTING: frozenset[Kind] = frozenset({CloudFault.OUTAGE, CloudFault.LISTED_LATE, CloudFault.KEY_REFUSED})
"""They are felt at many calls."""

LEFT_TO_THE_PRODUCT: frozenset[Kind] = frozenset(
    {
        CloudFault.PREEMPTED, CloudFault.NEVER_READY, CloudFault.SLOW_BOOT, CloudFault.DEARER, CloudFault.LOST_ANSWER,
        CloudFault.LOST_REQUEST, CloudFault.RATE_LIMITED, CloudFault.SERVER_ERROR, CloudFault.FALSE_ABSENCE,
        CloudFault.PREEMPTED_WITH_NOTICE, WorldFault.CLOCK_SKEW, WorldFault.DRIVER_KILLED, WorldFault.SUPERVISOR_KILLED,
        WorldFault.TRAINER_KILLED, WorldFault.ASLEEP, WorldFault.HOST_GONE, WorldFault.UNREACHABLE,
        WorldFault.OFFLINE,
    }
)  # fmt: skip
"""After these alone nobody has to do more than attach. Whether a host has died that its provider calls running, or only
this laptop's network does not let it through, is for a person to say."""
