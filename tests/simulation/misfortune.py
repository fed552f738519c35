"""Strikes a world with the faults of its schedule: at passages of its drivers, and after events on its machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from orchestrator.host import ConnectionLost
from orchestrator.lifecycle import Standing, State, Wish
from providers.api import MachineId
from providers.testing.faults import CloudFault, Mishap
from tests.simulation.computer import Computer
from tests.simulation.kinds import AT_STORE, LASTING, LOSSES, NEEDS_CALL, NEEDS_STOP, Kind, WorldFault
from tests.simulation.schedule import AT_HOST, AtMachine, AtPassage, Occasion, Planned
from tests.simulation.trainer import HELD_STEP_S

if TYPE_CHECKING:
    from tests.simulation.outcome import Driver
    from tests.simulation.world import World

CHAIN_PATIENCE_S = 8.0
"""Of virtual time: then an occasion is made for the fault of a chain that has found none."""
LAST_PATIENCE_S = 60.0
"""And then the next one is armed beside it."""
LONGEST_HOLD_S = 400.0
"""In all, that training waits before its last steps for what is still to happen."""
LOOK_S = 4.0
HEARD_S = 2.0
"""After which the laptop has heard of a checkpoint."""
HANG_S = 1200.0


class Misfortune:
    """`fired` is what has taken effect and how often, in the order of the first times."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.fired: Counter[Kind] = Counter()
        self.strikes: list[Kind] = []
        """In order; of what lasts, the beginning alone."""
        self.passed: Counter[str] = Counter()
        """Passages, by point."""
        self._waiting = list(world.schedule.faults)
        self._newest: Planned | None = None
        """Of a chain: what the next one waits for."""
        self._at_passages: dict[str, list[tuple[int, AtPassage]]] = {}
        self._at_machines: list[AtMachine] = []
        self._damage_next = False
        self._impatient: AtPassage | None = None
        """Strikes at the next passage at which it can."""
        self._held_s = 0.0
        self._outbid_next = False
        """Once there is another checkpoint: a machine is started again only for what it holds alone."""

    def begin(self) -> None:
        if self._world.schedule.chained:
            self._arm_next()
        while self._waiting and not self._world.schedule.chained:
            self._arm(self._waiting.pop(0))

    def fired_now(self, kind: Kind) -> None:
        self.fired[kind] += 1
        if self.fired[kind] == 1 or kind not in LASTING:
            self.strikes.append(kind)
        self._world.note(f"fault: {kind.value}")
        if self._newest is not None and self._newest.kind is kind:
            self._newest = None
            self._arm_next()

    # ---- arming ----------------------------------------------------------------------------------------------------

    def holds_training(self, steps_left: int) -> bool:
        """Whether a chain has faults left for these steps, which want a machine at work: at least one each."""
        newest = self._newest
        if newest is None:
            return False
        if newest is self._impatient and newest.kind is WorldFault.DAMAGED:
            return False  # it waits for something to come home
        if newest.kind in AT_STORE | NEEDS_STOP and (self._outbid_next or self._is_about(newest)):
            return False  # it waits for a checkpoint
        left = len(self._waiting) + 1
        waits = self._world.schedule.chained and steps_left <= left and self._held_s < LONGEST_HOLD_S
        if waits:
            self._held_s += HELD_STEP_S
        return waits

    def _is_about(self, fault: Planned) -> bool:
        """Whether one of the store waits for nothing but an upload."""
        return isinstance(fault, AtMachine) and fault not in self._at_machines

    def _arm_next(self) -> None:
        if not self._waiting:
            return
        self._newest = fault = self._waiting.pop(0)
        self._arm(fault)
        if isinstance(fault, AtPassage) and fault.kind is WorldFault.DAMAGED:
            self._impatient = fault  # there are few passages for it
        self._after_patience(CHAIN_PATIENCE_S, fault, lambda: self._make_occasion(fault))

    def _after_patience(self, patience_s: float, fault: Planned, action: Callable[[], None]) -> None:
        """Unless it has struck. It does not count while nobody is at the laptop whom it could meet."""

        def look(left_s: float) -> None:
            if self._newest is not fault or self._world.over:
                return
            if left_s <= 0:
                action()
                return
            worked = bool(self._world.drivers)
            self._world.clock.after(LOOK_S if worked else 60.0, lambda: look(left_s - LOOK_S * worked))

        look(patience_s)

    def _make_occasion(self, fault: Planned) -> None:
        match fault:
            case AtPassage():
                self._impatient = fault
            case AtMachine():
                self._try_after_delay(replace(fault, delay_s=0.0), fault)
            case Mishap(kind) if kind in NEEDS_STOP:
                self._outbid_next = True
            case Mishap(kind) if kind in NEEDS_CALL:
                self._impatient = AtPassage(WorldFault.CUT, "", 1, 0.0)
            case Mishap():
                self._strike_anyhow(self._world.random.choice(LOSSES))
            case _:
                assert_never(fault)
        self._after_patience(LAST_PATIENCE_S, fault, self._arm_next)

    def _strike_anyhow(self, kind: Kind) -> None:
        if isinstance(kind, CloudFault):
            self._arm(Mishap(kind, 0, 0.5, 5.0))
        else:
            self._arm(AtMachine(kind, Occasion.LOOP, 0.5, 30.0))

    def _arm(self, fault: Planned) -> None:
        match fault:
            case Mishap():
                self._world.cloud.arm(fault)
            case AtPassage():
                due = self.passed[fault.point] + fault.nth
                self._at_passages.setdefault(fault.point, []).append((due, fault))
            case AtMachine():
                self._at_machines.append(fault)
                if self._world.schedule.chained and self._world.fleet.current is not None:
                    self._try_after_delay(fault)
            case _:
                assert_never(fault)

    # ---- at passages -----------------------------------------------------------------------------------------------

    def passes(self, point: str, driver: Driver) -> None:
        """Raises whatever a driver at this passage meets now."""
        self.passed[point] += 1
        if self._impatient is not None and self._may_strike(self._impatient.kind, point):
            fault, self._impatient = self._impatient, None
            self._forget(fault)
            self._strike_driver(replace(fault, point=point), driver)
        waiting = self._at_passages.get(point)
        if not waiting:
            return
        count = self.passed[point]
        due = [fault for nth, fault in waiting if nth <= count]
        self._at_passages[point] = [(nth, fault) for nth, fault in waiting if nth > count]
        for fault in due:
            self._strike_driver(fault, driver)

    def _may_strike(self, kind: WorldFault, point: str) -> bool:
        where, before = point.split()[0].split(":")[0], point.endswith(":before")
        match kind:
            case WorldFault.CUT:
                return where in AT_HOST
            case WorldFault.DAMAGED:
                return point == "chunk read:before"
            case WorldFault.TWO_DRIVERS:
                return len(self._world.drivers) == 1 and not self._is_unaware(point)
            case WorldFault.OVERTAKEN_UNAWARE:
                return len(self._world.drivers) == 1
            case _:
                return before or where != "sleep"

    def _forget(self, fault: AtPassage) -> None:
        for point, waiting in self._at_passages.items():
            self._at_passages[point] = [(nth, each) for nth, each in waiting if each is not fault]

    def damage(self, chunk: bytes) -> bytes:
        if not self._damage_next or not chunk:
            return chunk
        self._damage_next = False
        self.fired_now(WorldFault.DAMAGED)
        return bytes([chunk[0] ^ 1]) + chunk[1:]

    def _strike_driver(self, fault: AtPassage, driver: Driver) -> None:
        world = self._world
        match fault.kind:
            case WorldFault.DRIVER_KILLED:
                self.fired_now(fault.kind)
                world.kill(driver)
            case WorldFault.ASLEEP:
                self.fired_now(fault.kind)
                for computer in world.computers.values():
                    computer.connections += 1
                world.clock.sleep(fault.length_s)
            case WorldFault.CUT:
                self.fired_now(fault.kind)
                raise ConnectionLost("the connection was cut")
            case WorldFault.DAMAGED:
                self._damage_next = True
            case WorldFault.TWO_DRIVERS if len(world.drivers) == 1 and not self._is_unaware(fault.point):
                self.fired_now(fault.kind)
                world.overtake(spares_folder=True)
            case WorldFault.OVERTAKEN_UNAWARE if len(world.drivers) == 1:
                self.fired_now(fault.kind)
                world.overtake(spares_folder=False)
            case _:
                self._at_passages.setdefault(fault.point, []).append((self.passed[fault.point] + 1, fault))

    def _is_unaware(self, point: str) -> bool:
        """Whether the driver at work could not notice in time that it was overtaken: see BEYOND_TODAY."""
        newest = self._world.ledger.machine(self._world.run_name, self._world.run().attempt)
        streams = self._world.streams > 0 or point.startswith("receive follow")
        return streams or (newest is not None and newest.standing is Standing.UNSETTLED)

    # ---- after events on machines ----------------------------------------------------------------------------------

    def happened(self, occasion: Occasion) -> None:
        if occasion is Occasion.CHECKPOINT and self._outbid_next:
            self._outbid_next = False
            self._arm(Mishap(CloudFault.OUTBID, 0, HEARD_S))
        for fault in self._at_machines:
            if fault.occasion is occasion:
                self._try_after_delay(fault)

    def _try_after_delay(self, fault: AtMachine, planned: AtMachine | None = None) -> None:
        """`planned`: as it stands among those that wait; then it is tried again until it strikes."""
        waiting = planned or fault

        def strike() -> None:
            if waiting not in self._at_machines or self._world.over:
                return
            if not self._strikes(fault):
                if planned is not None:
                    self._world.clock.after(LOOK_S if self._world.drivers else 60.0, strike)
            else:
                self._at_machines.remove(waiting)
                if fault.kind not in AT_STORE | {WorldFault.LAPTOP_FULL}:  # these tell when they take effect
                    self.fired_now(fault.kind)

        self._world.clock.after(fault.delay_s, strike)

    def _strikes(self, fault: AtMachine) -> bool:
        """False: it could not, and waits for its next occasion."""
        world = self._world
        if fault.kind in (WorldFault.USER_STOPS, WorldFault.USER_ENDS):
            if world.run().state is State.ENDED:
                return False
            world.wish(Wish.STOP if fault.kind is WorldFault.USER_STOPS else Wish.DOWN)
            return True
        if fault.kind is WorldFault.LAPTOP_FULL:
            world.fill_disk(fault.length_s)
            return True
        if fault.kind in AT_STORE:
            return self._strikes_store(fault)
        computer = world.fleet.current
        return computer is not None and self._strikes_computer(fault, computer)

    def _strikes_store(self, fault: AtMachine) -> bool:
        store = self._world.store
        assert store is not None
        match fault.kind:
            case WorldFault.STORE_UNREACHABLE:
                store.be_unreachable(fault.length_s)
            case WorldFault.URLS_DEAD:
                store.let_urls_die()
            case WorldFault.UPLOAD_CUT:
                store.cut_next_put()
            case WorldFault.UPLOADER_KILLED:
                store.kill_uploader(self._world.random.randint(1, 6), after=self._world.random.random() < 0.5)
            case _:
                store.alter_next_put()
        return True

    def _strikes_computer(self, fault: AtMachine, computer: Computer) -> bool:
        clock = self._world.clock
        match fault.kind:
            case WorldFault.UNREACHABLE:
                computer.unreachable_until_s = clock.monotonic() + fault.length_s
                computer.connections += 1
            case WorldFault.OFFLINE:
                self._world.offline_until_s = clock.monotonic() + 10 * fault.length_s
                for each in self._world.computers.values():
                    each.unreachable_until_s = self._world.offline_until_s
                    each.connections += 1
            case WorldFault.DISK_FULL:
                computer.disk_full_until_s = clock.monotonic() + fault.length_s
            case WorldFault.CLOCK_SKEW:
                computer.date.ahead_s = fault.length_s
            case WorldFault.CONTAINER_RESTARTED:
                computer.restart(pause_s=10.0)
            case WorldFault.GUARD_KILLED if computer.guard is not None and computer.guard.alive:
                computer.guard.kill()
                computer.lost_its_guard = True
            case WorldFault.SUPERVISOR_KILLED if computer.living():
                computer.living()[0].kill()
            case WorldFault.TRAINER_KILLED if computer.stages():
                computer.stages()[0].end(-9)
            case WorldFault.TRAINER_HANGS if not computer.hangs and computer.stages():
                computer.hangs = True
                clock.after(HANG_S, lambda: setattr(computer, "hangs", False))
            case WorldFault.HOST_DEAD:
                computer.die()
                computer.lost_its_guard = True
            case WorldFault.HOST_GONE:
                computer.die()
                computer.lost_its_guard = True
                clock.after(fault.length_s, lambda: self._world.cloud.vanish(MachineId(computer.name)))
            case _:
                return False
        return True
