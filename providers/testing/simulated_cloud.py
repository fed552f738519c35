"""A cloud on a virtual clock: rents, boots, bills, pre-empts and fails as its `Faults` say. A `MachineProvider`.

It is as strict as a real one and keeps its own books: what is billed is counted here, from `create` to the machine's
end, whatever its tenant believes. `rentals` is the truth that a test compares beliefs with; no provider has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from providers.api import (
    BootPlan,
    GpuRequest,
    Machine,
    MachineId,
    MachineStatus,
    Market,
    Offer,
    SelfRelease,
    SshAccess,
)
from providers.errors import Indeterminate, MachineGone, NoCapacity, Transient
from providers.testing.faults import CloudFault, Faults
from providers.testing.virtual_clock import VirtualClock


@dataclass(frozen=True)
class Shelf:
    """One kind of machine and how many of it there are."""

    gpu: str
    vram_gb: float
    on_demand_usd: float
    """Per hour."""
    spot_usd: float
    stock: int = 100

    def price(self, market: Market) -> float:
        return self.spot_usd if market is Market.SPOT else self.on_demand_usd


SHELVES = (Shelf("RTX A5000", 24, 0.36, 0.17), Shelf("RTX 4090", 24, 0.69, 0.29))


@dataclass
class Rental:
    """One machine from its creation on; kept when it is gone."""

    id: MachineId
    ordinal: int
    tag: str
    offer: Offer
    price_per_hour_usd: float
    created_s: float
    listed_from_s: float
    ready: bool = False
    released: bool = False
    gone_s: float | None = None

    @property
    def status(self) -> MachineStatus:
        if self.released:
            return MachineStatus.RELEASING
        return MachineStatus.RUNNING if self.ready else MachineStatus.STARTING


def _ignore(_: Rental) -> None: ...


@dataclass
class Hooks:
    """What a simulated host attaches itself to. Called at the instant; must not wait."""

    on_boot: Callable[[Rental], None] = _ignore
    """It has an address and answers."""
    on_notice: Callable[[Rental], None] = _ignore
    """It will be pre-empted."""
    on_gone: Callable[[Rental], None] = _ignore
    """Its processes and its disk are no more."""
    on_fault: Callable[[CloudFault], None] = field(default=lambda _: None)
    """A fault took effect."""


class SimulatedCloud:
    """One account. `boot_s` and `release_s` are how long those take; every call is an instant."""

    name = "simulated"
    markets = frozenset(Market)

    def __init__(
        self,
        clock: VirtualClock,
        faults: Faults | None = None,
        *,
        shelves: Sequence[Shelf] = SHELVES,
        boot_s: float = 30.0,
        release_s: float = 10.0,
    ) -> None:
        self._clock = clock
        self._shelves = shelves
        self._boot_s, self._release_s = boot_s, release_s
        self._calls = self._creates = self._looks = 0
        self.faults = faults or Faults()
        self.hooks = Hooks()
        self.rentals: dict[MachineId, Rental] = {}
        """All that ever were, in the order of their creation."""

    # ---- the provider's methods ------------------------------------------------------------------------------------

    def offers(self, want: GpuRequest) -> Sequence[Offer]:
        self._answer_or_fail()
        found = [
            self._offer(shelf, want.market)
            for shelf in self._shelves
            if self._left(shelf) > 0
            and (not want.gpus or shelf.gpu in want.gpus)
            and shelf.vram_gb >= want.min_vram_gb
            and (want.max_price_per_hour_usd is None or shelf.price(want.market) <= want.max_price_per_hour_usd)
        ]
        return sorted(found, key=lambda offer: offer.price_per_hour_usd)

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        self._answer_or_fail()
        self._creates += 1
        ordinal = self._creates
        if ordinal in self.faults.lost_requests:
            self.hooks.on_fault(CloudFault.LOST_REQUEST)
            raise Indeterminate("the connection broke while the machine was being created")
        shelf = next((s for s in self._shelves if self._offer(s, offer.market).id == offer.id), None)
        refused = ordinal in self.faults.without_capacity
        if offer.provider != self.name or shelf is None or self._left(shelf) <= 0 or refused:
            if refused:
                self.hooks.on_fault(CloudFault.NO_CAPACITY)
            raise NoCapacity(f"no {offer.gpu} is left", "try another GPU with `--gpu`")
        rental = self._rent(ordinal, offer, tag)
        if ordinal in self.faults.lost_answers:
            self.hooks.on_fault(CloudFault.LOST_ANSWER)
            raise Indeterminate("the connection broke while the machine was being created")
        return rental.id

    def describe(self, machine: MachineId) -> Machine:
        self._answer_or_fail()
        rental = self.rentals.get(machine)
        if rental is None or rental.gone_s is not None or self._looks_absent():
            raise MachineGone(f"there is no machine {machine}")
        return _as_described(rental)

    def list(self, prefix: str) -> Sequence[Machine]:
        self._answer_or_fail()
        living = [rental for rental in self.living() if rental.tag.startswith(prefix)]
        shown = [rental for rental in living if self._clock.monotonic() >= rental.listed_from_s]
        if len(shown) < len(living):
            self.hooks.on_fault(CloudFault.LISTED_LATE)
        if shown and self._looks_absent():
            return []
        return [_as_described(rental) for rental in shown]

    def release(self, machine: MachineId) -> None:
        self._answer_or_fail()
        rental = self.rentals.get(machine)
        if rental is not None and not rental.released:
            rental.released = True
            self._clock.after(self._release_s, lambda: self._end(rental))

    def self_release(self, offer: Offer) -> SelfRelease | None:
        return None

    # ---- the truth -------------------------------------------------------------------------------------------------

    def living(self) -> Sequence[Rental]:
        """All that exist and are billed now, whatever `list` shows."""
        return [rental for rental in self.rentals.values() if rental.gone_s is None]

    def billed_usd(self, prefix: str = "") -> float:
        """So far, by the second begun, for every machine whose tag starts with `prefix`."""
        return sum(
            math.ceil((self._clock.monotonic() if r.gone_s is None else r.gone_s) - r.created_s)
            * r.price_per_hour_usd / 3600
            for r in self.rentals.values()
            if r.tag.startswith(prefix)
        )  # fmt: skip

    def vanish(self, machine: MachineId) -> None:
        """The machine is no more, as after a pre-emption or a hardware failure. Twice is safe."""
        self._end(self.rentals[machine])

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _answer_or_fail(self) -> None:
        self._calls += 1
        if self._calls in self.faults.rate_limited:
            self.hooks.on_fault(CloudFault.RATE_LIMITED)
            raise Transient("too many requests", retry_after_s=self.faults.rate_limited[self._calls])
        if self._calls in self.faults.server_errors:
            self.hooks.on_fault(CloudFault.SERVER_ERROR)
            raise Transient("the service answers 502")
        if any(outage.covers(self._clock.monotonic()) for outage in self.faults.outages):
            self.hooks.on_fault(CloudFault.OUTAGE)
            raise Transient("the service does not answer")

    def _looks_absent(self) -> bool:
        self._looks += 1
        if self._looks not in self.faults.false_absences:
            return False
        self.hooks.on_fault(CloudFault.FALSE_ABSENCE)
        return True

    def _rent(self, ordinal: int, offer: Offer, tag: str) -> Rental:
        now = self._clock.monotonic()
        factor = self.faults.dearer.get(ordinal, 1.0)
        if factor != 1.0:
            self.hooks.on_fault(CloudFault.DEARER)
        rental = Rental(
            MachineId(f"m{ordinal}"), ordinal, tag, offer, offer.price_per_hour_usd * factor, now,
            now + self.faults.listed_late_s.get(ordinal, 0.0),
        )  # fmt: skip
        self.rentals[rental.id] = rental
        if ordinal in self.faults.never_ready:
            self.hooks.on_fault(CloudFault.NEVER_READY)
        else:
            slower_s = self.faults.slow_boots_s.get(ordinal, 0.0)
            if slower_s:
                self.hooks.on_fault(CloudFault.SLOW_BOOT)
            self._clock.after(self._boot_s + slower_s, lambda: self._boot(rental))
        for preemption in self.faults.preemptions:
            if preemption.machine == ordinal:
                self._clock.after(preemption.after_s, partial(self._take, rental, preemption.notice_s))
        return rental

    def _boot(self, rental: Rental) -> None:
        if rental.gone_s is None and not rental.released:
            rental.ready = True
            self.hooks.on_boot(rental)

    def _take(self, rental: Rental, notice_s: float | None) -> None:
        if rental.gone_s is not None or rental.released:
            return
        if notice_s is None:
            self.hooks.on_fault(CloudFault.PREEMPTED)
            self._end(rental)
        else:
            self.hooks.on_fault(CloudFault.PREEMPTED_WITH_NOTICE)
            self.hooks.on_notice(rental)
            self._clock.after(notice_s, lambda: self._end(rental))

    def _end(self, rental: Rental) -> None:
        if rental.gone_s is None:
            rental.gone_s = self._clock.monotonic()
            self.hooks.on_gone(rental)

    def _offer(self, shelf: Shelf, market: Market) -> Offer:
        return Offer(
            provider=self.name,
            id=f"{shelf.gpu}/{market.value}",
            gpu=shelf.gpu,
            gpu_count=1,
            vram_gb=shelf.vram_gb,
            market=market,
            price_per_hour_usd=shelf.price(market),
            stock=str(self._left(shelf)),
        )

    def _left(self, shelf: Shelf) -> int:
        return shelf.stock - sum(rental.offer.gpu == shelf.gpu for rental in self.living())


def _as_described(rental: Rental) -> Machine:
    access = SshAccess(host=f"{rental.id}.simulated", user="root") if rental.ready else None
    return Machine(rental.id, rental.tag, rental.status, rental.status.value.upper(), rental.price_per_hour_usd, access)
