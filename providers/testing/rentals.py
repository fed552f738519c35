"""What a simulated cloud rents out and what it writes on the bill."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from providers.api import BootPlan, Machine, MachineId, MachineStatus, Market, Offer, SshAccess


@dataclass(frozen=True)
class Shelf:
    """One kind of machine and how many of it there are."""

    gpu: str
    vram_gb: float
    on_demand_usd: float
    """Per hour."""
    spot_usd: float
    stock: int = 100
    disk_usd_per_gb_day: float = 0.0067
    """Of a stopped machine."""
    least_disk_gb: float = 20.0

    def price(self, market: Market) -> float:
        return self.spot_usd if market is Market.SPOT else self.on_demand_usd

    def at(self, factor: float) -> Shelf:
        """The same, at a multiple of its prices per hour."""
        return replace(self, on_demand_usd=factor * self.on_demand_usd, spot_usd=factor * self.spot_usd)


@dataclass
class Meter:
    """Bills every second begun at the price of its time."""

    since_s: float
    usd_per_hour: float
    before_usd: float = 0.0

    def usd(self, now_s: float) -> float:
        return self.before_usd + math.ceil(now_s - self.since_s) * self.usd_per_hour / 3600

    def turn(self, now_s: float, usd_per_hour: float) -> None:
        """Another price from now on."""
        self.before_usd = self.usd(now_s)
        self.since_s, self.usd_per_hour = now_s, usd_per_hour


@dataclass
class Rental:
    """One machine from its creation on; kept when it is gone."""

    id: MachineId
    tag: str
    offer: Offer
    boot: BootPlan
    price_per_hour_usd: float
    created_s: float
    listed_from_s: float
    key_refused: bool = False
    has_gpu: bool = True
    ready: bool = False
    stopped: bool = False
    released: bool = False
    gone_s: float | None = None
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.meter = Meter(self.created_s, self.price_per_hour_usd)
        self.key = f"key-of-{self.id}"

    @property
    def status(self) -> MachineStatus:
        if self.released:
            return MachineStatus.RELEASING
        if self.stopped:
            return MachineStatus.STOPPED
        return MachineStatus.RUNNING if self.ready else MachineStatus.STARTING

    def say(self, line: str) -> None:
        self.log.append(line)


def as_described(rental: Rental) -> Machine:
    """The provider's view; a stopped machine is priced by its disk."""
    access = (
        SshAccess(host=f"{rental.id}.simulated", user="root", workdir=rental.offer.workdir) if rental.ready else None
    )
    return Machine(rental.id, rental.tag, rental.status, rental.status.value.upper(), rental.meter.usd_per_hour, access)
