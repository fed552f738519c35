"""How a run stands on its host, as the agent answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional

from .codec import PROTOCOL
from .files import CommittedFolder

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
