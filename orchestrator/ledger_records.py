"""What the ledger tells of runs, machines, moves and artifacts: rows as values. Ask for them through `ledger`."""

from __future__ import annotations

import itertools
import sqlite3
from dataclasses import dataclass

from orchestrator.lifecycle import EndReason, Keeps, Standing, State, Trouble, Wish
from providers.api import MachineId, Market


@dataclass(frozen=True)
class RunRecord:
    name: str
    created_at: float
    provider: str
    spec_json: str
    plan_json: str
    state: State
    wish: Wish
    reason: EndReason | None
    attempt: int
    driver_epoch: int
    ended_at: float | None


@dataclass(frozen=True)
class Rate:
    """What a machine bills from a moment on."""

    at: float
    usd_per_hour: float
    stopped: bool
    """Only its disk is billed."""


@dataclass(frozen=True)
class MachineRecord:
    tag: str
    run: str
    attempt: int
    provider: str
    offer_id: str
    price_per_hour_usd: float
    """As it was offered; see `rate_usd` for what it bills now."""
    intent_at: float
    machine_id: MachineId | None
    created_at: float | None
    absent_at: float | None
    market: Market = Market.ON_DEMAND
    disk_per_day_usd: float = 0.0
    """Of its disk while it is stopped."""
    rescue_usd: float = 0.0
    """Kept back within the ceiling, so that it may be stopped with the only copy and started once more."""
    trouble: Trouble | None = None
    """Why the run could not use it any more, the last time that this happened."""
    trouble_why: str = ""
    keeps: Keeps = Keeps.NOTHING
    """What its disk holds that lies nowhere else, as was found when the machine was lost."""
    keeps_since: float | None = None
    rates: tuple[Rate, ...] = ()
    """After the offered price, oldest first."""
    billed_usd: float | None = None
    """What the provider stated after the machine's end; None where it has not."""
    first_lease_s: float | None = None
    """How long after its boot a machine that nobody reaches ends itself; None where that is not on record."""
    refused: bool = False
    """The provider has said that `create` made nothing. An answer that was lost says no such thing."""
    gpu: str = ""
    """As the offer named it; empty for machines of versions that did not note it."""
    traffic_usd: float = 0.0
    """What its provider is expected to bill for bytes that come and go, beside its time."""

    @property
    def rate_usd(self) -> float:
        """Per hour, now."""
        return self.rates[-1].usd_per_hour if self.rates else self.price_per_hour_usd

    @property
    def stopped(self) -> bool:
        return bool(self.rates) and self.rates[-1].stopped

    @property
    def starts(self) -> int:
        """How often it was started again after a stop."""
        return self.starts_since(0.0)

    def starts_since(self, at: float) -> int:
        """The same, of those after a moment."""
        pairs = itertools.pairwise(self.rates)
        return sum(before.stopped and not after.stopped and after.at > at for before, after in pairs)

    @property
    def running_usd(self) -> float:
        """Per hour, the last time that it ran."""
        running = [rate.usd_per_hour for rate in self.rates if not rate.stopped]
        return running[-1] if running else self.price_per_hour_usd

    @property
    def bills_since(self) -> float:
        """Unix seconds from which on it may cost money."""
        return self.created_at if self.created_at is not None else self.intent_at

    @property
    def standing(self) -> Standing:
        if self.absent_at is not None:
            return Standing.ABSENT
        return Standing.UNSETTLED if self.machine_id is None else Standing.HELD


@dataclass(frozen=True)
class MoveRecord:
    at: float
    from_state: State
    to_state: State
    why: str


@dataclass(frozen=True)
class ArtifactRecord:
    kind: str
    """`checkpoint` or `output`."""
    step: int
    folder: str
    manifest_sha256: str


@dataclass(frozen=True)
class PredictionRecord:
    """A picture that was asked of a service, which bills it by itself: written down before it is asked for."""

    tag: str
    run: str
    """Whose model makes it."""
    provider: str
    model: str
    """`owner/name:version` there."""
    wish_json: str
    """What was asked: by it a prediction is known again whose answer was lost."""
    usd_per_s: float | None
    """What its computing costs; None where nobody knows."""
    intent_at: float
    prediction: str | None
    """The service's id; None while no answer has come."""
    over_at: float | None
    """When it was known to be over, or never to have been."""
    outcome: str | None
    """The service's word for how it ended, or `absent`."""
    usd: float | None
    """By the computing time that the service states."""


def run_record(row: sqlite3.Row) -> RunRecord:
    """Of a row of `runs`."""
    reason = EndReason(row["reason"]) if row["reason"] else None
    return RunRecord(
        row["name"], row["created_at"], row["provider"], row["spec_json"], row["plan_json"], State(row["state"]),
        Wish(row["wish"]), reason, row["attempt"], row["driver_epoch"], row["ended_at"],
    )  # fmt: skip


def machine_record(row: sqlite3.Row, rates: tuple[Rate, ...]) -> MachineRecord:
    """Of a row of `machines`. rates: oldest first."""
    machine_id = MachineId(row["machine_id"]) if row["machine_id"] is not None else None
    return MachineRecord(
        row["tag"], row["run"], row["attempt"], row["provider"], row["offer_id"], row["price_per_hour_usd"],
        row["intent_at"], machine_id, row["created_at"], row["absent_at"], Market(row["market"]),
        row["disk_per_day_usd"], row["rescue_usd"], Trouble(row["trouble"]) if row["trouble"] else None,
        row["trouble_why"] or "", Keeps(row["keeps"] or ""), row["keeps_since"], rates, row["billed_usd"],
        row["first_lease_s"], bool(row["refused"]), row["gpu"], row["traffic_usd"],
    )  # fmt: skip
