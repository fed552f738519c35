"""A cloud on a virtual clock: rents, boots, bills, stops, pre-empts and fails as it is told. A `MachineProvider`
with every optional ability.

It is as strict as a real one and keeps its own books: what is billed is counted here, by the second, from `create` to
the machine's end, whatever its tenant believes. `rentals` is the truth that a test compares beliefs with; no provider
has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from providers.api import (
    BootPlan,
    GpuRequest,
    Machine,
    MachineId,
    Market,
    Offer,
    SelfRelease,
)
from providers.errors import Indeterminate, MachineGone, NoCapacity, Transient
from providers.testing import machine_calls
from providers.testing.faults import AT_CREATE, TAKES_MACHINE, CloudFault, Mishap
from providers.testing.machine_calls import Answer
from providers.testing.rentals import Rental, Shelf, as_described
from providers.testing.virtual_clock import VirtualClock

SHELVES = (Shelf("RTX A5000", 24, 0.36, 0.17), Shelf("RTX 4090", 24, 0.69, 0.29))


def _ignore(_: Rental) -> None: ...


@dataclass
class Hooks:
    """What a simulated host attaches itself to. Called at the instant; must not wait."""

    on_boot: Callable[[Rental], None] = _ignore
    """It has an address and answers: for the first time, or again after a stop."""
    on_notice: Callable[[Rental], None] = _ignore
    """It will be pre-empted."""
    on_stop: Callable[[Rental], None] = _ignore
    """Its processes are no more, its disk is."""
    on_gone: Callable[[Rental], None] = _ignore
    """Its processes and its disk are no more."""
    on_fault: Callable[[CloudFault], None] = field(default=lambda _: None)
    """A fault took effect."""


class SimulatedCloud:
    """One account. `boot_s` and `release_s` are how long those take; every call is an instant."""

    name = "simulated"
    markets = frozenset(Market)
    stopped_disk_may_vanish = True

    def __init__(
        self,
        clock: VirtualClock,
        mishaps: Iterable[Mishap] = (),
        *,
        shelves: Sequence[Shelf] = SHELVES,
        boot_s: float = 30.0,
        release_s: float = 10.0,
        self_release: SelfRelease | None = machine_calls.SELF_RELEASE,
    ) -> None:
        self._clock = clock
        self._shelves = shelves
        self._boot_s, self._release_s = boot_s, release_s
        self._self_release = self_release
        self._armed: list[Mishap] = []
        self._down_until_s = self._sold_out_until_s = 0.0
        self.hooks = Hooks()
        self.rentals: dict[MachineId, Rental] = {}
        """All that ever were, in the order of their creation."""
        for mishap in mishaps:
            self.arm(mishap)

    def arm(self, mishap: Mishap) -> None:
        """From now on `mishap` waits for its occasion."""
        self._armed.append(mishap)
        if mishap.kind in TAKES_MACHINE:
            for rental in self.living():
                if rental.ready:
                    self._tempt_fate(rental)

    # ---- the provider's methods ------------------------------------------------------------------------------------

    def offers(self, want: GpuRequest) -> Sequence[Offer]:
        self._answer_or_fail()
        if mishap := self._due(CloudFault.SOLD_OUT):
            self._sold_out_until_s = self._clock.monotonic() + mishap.amount
            self.hooks.on_fault(CloudFault.SOLD_OUT)
        found = [
            self._offer(shelf, want)
            for shelf in self._shelves
            if self._left(shelf) > 0
            and (not want.gpus or shelf.gpu in want.gpus)
            and shelf.vram_gb >= want.min_vram_gb
            and (want.max_price_per_hour_usd is None or shelf.price(want.market) <= want.max_price_per_hour_usd)
        ]
        return sorted(found, key=lambda offer: offer.price_per_hour_usd)

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        self._answer_or_fail()
        if self._strikes(CloudFault.LOST_REQUEST):
            raise Indeterminate("the connection broke while the machine was being created")
        if self._strikes(CloudFault.NO_CAPACITY) or not self._has(offer):
            raise NoCapacity(f"no {offer.gpu} is left", "try another GPU with `--gpu`")
        rental = self._rent(offer, boot, tag)
        if self._strikes(CloudFault.LOST_ANSWER) or rental.listed_from_s > self._clock.monotonic():
            raise Indeterminate("the connection broke while the machine was being created")
        return rental.id

    def describe(self, machine: MachineId) -> Machine:
        self._answer_or_fail()
        rental = self._rental(machine)
        if self._strikes(CloudFault.FALSE_ABSENCE):
            raise MachineGone(f"there is no machine {machine}")
        return as_described(rental)

    def list(self, prefix: str) -> Sequence[Machine]:
        self._answer_or_fail()
        living = [rental for rental in self.living() if rental.tag.startswith(prefix)]
        shown = [rental for rental in living if self._clock.monotonic() >= rental.listed_from_s]
        if len(shown) < len(living):
            self.hooks.on_fault(CloudFault.LISTED_LATE)
        if shown and self._strikes(CloudFault.FALSE_ABSENCE):
            return []
        return [as_described(rental) for rental in shown]

    def release(self, machine: MachineId) -> None:
        self._answer_or_fail()
        rental = self.rentals.get(machine)
        if rental is not None:
            self._terminate(rental)

    def self_release(self, offer: Offer) -> SelfRelease | None:
        return self._self_release

    # ---- abilities -------------------------------------------------------------------------------------------------

    def stop(self, machine: MachineId) -> None:
        self._answer_or_fail()
        self._stop(self._rental(machine))

    def start(self, machine: MachineId) -> None:
        self._answer_or_fail()
        rental = self._rental(machine)
        if not rental.stopped or rental.released:
            return
        shelf = self._shelf(rental.offer)
        if self._strikes(CloudFault.NO_RESTART) or shelf is None or self._left(shelf) <= 0:
            raise NoCapacity(f"the host of {machine} has no free GPU")
        rental.stopped = False
        rental.meter.turn(self._clock.monotonic(), rental.price_per_hour_usd)
        self._clock.after(self._boot_s, lambda: self._boot(rental))

    def logs(self, machine: MachineId) -> str:
        self._answer_or_fail()
        return "".join(f"{line}\n" for line in self._rental(machine).log)

    def billed_usd(self, machine: MachineId) -> float | None:
        self._answer_or_fail()
        rental = self.rentals.get(machine)
        return None if rental is None else rental.meter.usd(self._clock.monotonic())

    # ---- what machines say about themselves ------------------------------------------------------------------------

    def answer_to_machine(self, method: str, url: str, authorization: str) -> int:
        """The HTTP status of a `MachineCall` whose blanks the machine has filled in."""
        if self._is_down():
            return 503
        asked = machine_calls.understood(method, url, authorization, self.rentals)
        if isinstance(asked, int):
            return asked
        rental, answer = asked
        if rental.key_refused:
            self.hooks.on_fault(CloudFault.KEY_REFUSED)
            return 403
        if answer is Answer.TERMINATE:
            self._terminate(rental)
        elif answer is Answer.STOP:
            self._stop(rental)
        return 200

    # ---- the truth -------------------------------------------------------------------------------------------------

    def living(self) -> Sequence[Rental]:
        """All that exist and are billed now, whatever `list` shows."""
        return [rental for rental in self.rentals.values() if rental.gone_s is None]

    def spent_usd(self, prefix: str = "") -> float:
        """So far, by the second begun, for every machine whose tag starts with `prefix`."""
        now = self._clock.monotonic()
        return sum(rental.meter.usd(now) for rental in self.rentals.values() if rental.tag.startswith(prefix))

    def vanish(self, machine: MachineId) -> None:
        """The machine is no more, as after a pre-emption or a hardware failure. Twice is safe."""
        self._end(self.rentals[machine])

    # ---- faults ----------------------------------------------------------------------------------------------------

    def _due(self, *kinds: CloudFault) -> Mishap | None:
        """The first armed mishap of these kinds that strikes at this occasion; the others count it."""
        for index, mishap in enumerate(self._armed):
            if mishap.kind in kinds:
                if mishap.skip == 0:
                    return self._armed.pop(index)
                self._armed[index] = Mishap(mishap.kind, mishap.skip - 1, mishap.delay_s, mishap.amount)
        return None

    def _strikes(self, kind: CloudFault) -> bool:
        mishap = self._due(kind)
        if mishap is not None:
            self.hooks.on_fault(kind)
        return mishap is not None

    def _is_down(self) -> bool:
        down = self._clock.monotonic() < self._down_until_s
        if down:
            self.hooks.on_fault(CloudFault.OUTAGE)
        return down

    def _answer_or_fail(self) -> None:
        mishap = self._due(CloudFault.RATE_LIMITED, CloudFault.SERVER_ERROR, CloudFault.OUTAGE)
        if mishap is not None:
            if mishap.kind is CloudFault.OUTAGE:
                self._down_until_s = self._clock.monotonic() + mishap.amount
            else:
                self.hooks.on_fault(mishap.kind)
                limited = mishap.kind is CloudFault.RATE_LIMITED
                raise Transient("too many requests", retry_after_s=mishap.amount) if limited else Transient("502")
        if self._is_down():
            raise Transient("the service does not answer")

    def _tempt_fate(self, rental: Rental) -> None:
        """A machine answers: what takes machines may now take it, each in its own time."""
        while (mishap := self._due(*TAKES_MACHINE)) is not None:
            self._clock.after(mishap.delay_s, lambda mishap=mishap: self._take(rental, mishap))  # type: ignore[misc]

    def _take(self, rental: Rental, mishap: Mishap) -> None:
        outbid = mishap.kind is CloudFault.OUTBID
        if rental.gone_s is not None or rental.released or rental.stopped or (
            outbid and rental.offer.market is not Market.SPOT
        ):  # fmt: skip
            self._armed.append(mishap)
            return
        self.hooks.on_fault(mishap.kind)
        if outbid:
            self._stop(rental)
        elif mishap.kind is CloudFault.PREEMPTED:
            self._end(rental)
        else:
            self.hooks.on_notice(rental)
            self._clock.after(mishap.amount, lambda: self._end(rental))

    # ---- machines --------------------------------------------------------------------------------------------------

    def _rental(self, machine: MachineId) -> Rental:
        rental = self.rentals.get(machine)
        if rental is None or rental.gone_s is not None:
            raise MachineGone(f"there is no machine {machine}")
        return rental

    def _rent(self, offer: Offer, boot: BootPlan, tag: str) -> Rental:
        now = self._clock.monotonic()
        fate = {mishap.kind: mishap for kind in AT_MACHINE if (mishap := self._due(kind)) is not None}
        price = offer.price_per_hour_usd
        if dearer := fate.get(CloudFault.DEARER):
            price *= dearer.amount
            self.hooks.on_fault(CloudFault.DEARER)
        late = fate.get(CloudFault.LISTED_LATE)
        rental = Rental(
            MachineId(f"m{len(self.rentals) + 1}"), tag, offer, boot, price, now,
            listed_from_s=now + (late.amount if late else 0.0),
            key_refused=CloudFault.KEY_REFUSED in fate, has_gpu=CloudFault.NO_GPU not in fate,
        )  # fmt: skip
        self.rentals[rental.id] = rental
        rental.say("created")
        if not rental.has_gpu:
            self.hooks.on_fault(CloudFault.NO_GPU)
        if CloudFault.NEVER_READY in fate:
            self.hooks.on_fault(CloudFault.NEVER_READY)
            return rental
        slower = fate.get(CloudFault.SLOW_BOOT)
        if slower:
            self.hooks.on_fault(CloudFault.SLOW_BOOT)
        self._clock.after(self._boot_s + (slower.amount if slower else 0.0), lambda: self._boot(rental))
        return rental

    def _boot(self, rental: Rental) -> None:
        if rental.gone_s is None and not rental.released and not rental.stopped and not rental.ready:
            rental.ready = True
            rental.say("running")
            self.hooks.on_boot(rental)
            self._tempt_fate(rental)

    def _stop(self, rental: Rental) -> None:
        if rental.gone_s is not None or rental.stopped or rental.released:
            return
        rental.stopped, rental.ready = True, False
        rental.say("stopped")
        rental.meter.turn(self._clock.monotonic(), rental.offer.stopped_disk_per_day_usd / 24)
        self.hooks.on_stop(rental)
        mishap = self._due(CloudFault.DISK_VANISHES)
        if mishap is not None:
            self._clock.after(mishap.delay_s, lambda: self._give_away(rental))

    def _give_away(self, rental: Rental) -> None:
        if rental.stopped and rental.gone_s is None:
            self.hooks.on_fault(CloudFault.DISK_VANISHES)
            self._end(rental)

    def _terminate(self, rental: Rental) -> None:
        if not rental.released:
            rental.released = True
            self._clock.after(self._release_s, lambda: self._end(rental))

    def _end(self, rental: Rental) -> None:
        if rental.gone_s is None:
            rental.gone_s = self._clock.monotonic()
            rental.meter.turn(rental.gone_s, 0.0)
            self.hooks.on_gone(rental)

    # ---- the shelves -----------------------------------------------------------------------------------------------

    def _offer(self, shelf: Shelf, want: GpuRequest) -> Offer:
        return Offer(
            provider=self.name,
            id=f"{shelf.gpu}/{want.market.value}",
            gpu=shelf.gpu,
            gpu_count=1,
            vram_gb=shelf.vram_gb,
            market=want.market,
            price_per_hour_usd=shelf.price(want.market),
            stock=str(self._left(shelf)),
            stopped_disk_per_day_usd=shelf.disk_usd_per_gb_day * (want.disk_gb or shelf.least_disk_gb),
        )

    def _shelf(self, offer: Offer) -> Shelf | None:
        return next((s for s in self._shelves if offer.id == f"{s.gpu}/{offer.market.value}"), None)

    def _has(self, offer: Offer) -> bool:
        shelf = self._shelf(offer)
        return offer.provider == self.name and shelf is not None and self._left(shelf) > 0

    def _left(self, shelf: Shelf) -> int:
        if self._clock.monotonic() < self._sold_out_until_s:
            return 0
        return shelf.stock - sum(rental.offer.gpu == shelf.gpu and not rental.stopped for rental in self.living())


AT_MACHINE = sorted(
    AT_CREATE - {CloudFault.LOST_ANSWER, CloudFault.LOST_REQUEST, CloudFault.NO_CAPACITY}, key=lambda kind: kind.name
)
"""Those that are the fate of the machine which is made."""
