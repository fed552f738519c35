"""How long a machine has said nothing while it was seen to be there. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

LONGEST_GAP_S = 180.0
"""Two looks that lie farther apart are no evidence of what was between them: this computer slept or was offline."""
SAID_EVERY_S = 3600.0


@dataclass(frozen=True)
class Silence:
    """Of a machine that answers nobody, by looks at its provider on the driver's monotonic clock.

    It begins with the first look that finds the machine there, and begins anew after a look that was not answered or
    that came late: what nobody could ask proves nothing.
    """

    since_s: float | None = None
    seen_at_s: float | None = None
    said_at_s: float | None = None
    """When the user was last told of it."""

    @property
    def lasted_s(self) -> float:
        return 0.0 if self.since_s is None or self.seen_at_s is None else self.seen_at_s - self.since_s

    def seen(self, now_s: float) -> Silence:
        """After another look that found the machine there."""
        if self.seen_at_s is None or now_s - self.seen_at_s > LONGEST_GAP_S:
            return replace(self, since_s=now_s, seen_at_s=now_s)
        return replace(self, seen_at_s=now_s)

    def unseen(self) -> Silence:
        """After a look that nobody answered."""
        return replace(self, since_s=None, seen_at_s=None)

    @property
    def is_to_be_said(self) -> bool:
        assert self.seen_at_s is not None
        return self.said_at_s is None or self.seen_at_s - self.said_at_s >= SAID_EVERY_S

    def said(self) -> Silence:
        return replace(self, said_at_s=self.seen_at_s)


NO_SILENCE = Silence()
