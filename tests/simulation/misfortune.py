"""Strikes a world with the faults of its schedule: at passages of its drivers, and after events on its machines."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, assert_never

from orchestrator.host import ConnectionLost
from orchestrator.lifecycle import Standing, State, Wish
from providers.api import MachineId
from providers.testing.faults import Mishap
from tests.simulation.computer import Computer
from tests.simulation.kinds import AT_STORE, Kind, WorldFault
from tests.simulation.schedule import AtMachine, AtPassage, Occasion, Planned

if TYPE_CHECKING:
    from tests.simulation.world import Driver, World

CHAIN_PATIENCE_S = 40.0
"""Of virtual time: then the next fault of a chain is armed beside the one that has found no occasion."""
HANG_S = 1200.0


class Misfortune:
    """`fired` is what has taken effect and how often, in the order of the first times."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.fired: Counter[Kind] = Counter()
        self.passed: Counter[str] = Counter()
        """Passages, by point."""
        self._waiting = list(world.schedule.faults)
        self._newest: Planned | None = None
        """Of a chain: what the next one waits for."""
        self._at_passages: dict[str, list[tuple[int, AtPassage]]] = {}
        self._at_machines: list[AtMachine] = []
        self._damage_next = False

    def begin(self) -> None:
        if self._world.schedule.chained:
            self._arm_next()
        while self._waiting and not self._world.schedule.chained:
            self._arm(self._waiting.pop(0))

    def fired_now(self, kind: Kind) -> None:
        self.fired[kind] += 1
        self._world.note(f"fault: {kind.value}")
        if self._newest is not None and self._newest.kind is kind:
            self._newest = None
            self._arm_next()

    # ---- arming ----------------------------------------------------------------------------------------------------

    def _arm_next(self) -> None:
        if not self._waiting:
            return
        self._newest = fault = self._waiting.pop(0)
        self._arm(fault)

        def lose_patience() -> None:
            if self._newest is fault:
                self._arm_next()

        self._world.clock.after(CHAIN_PATIENCE_S, lose_patience)

    def _arm(self, fault: Planned) -> None:
        match fault:
            case Mishap():
                self._world.cloud.arm(fault)
            case AtPassage():
                due = self.passed[fault.point] + fault.nth
                self._at_passages.setdefault(fault.point, []).append((due, fault))
            case AtMachine():
                self._at_machines.append(fault)
                if self._world.schedule.chained and self._world.current_computer() is not None:
                    self._try_after_delay(fault)
            case _:
                assert_never(fault)

    # ---- at passages -----------------------------------------------------------------------------------------------

    def passes(self, point: str, driver: Driver) -> None:
        """Raises whatever a driver at this passage meets now."""
        self.passed[point] += 1
        waiting = self._at_passages.get(point)
        if not waiting:
            return
        count = self.passed[point]
        due = [fault for nth, fault in waiting if nth <= count]
        self._at_passages[point] = [(nth, fault) for nth, fault in waiting if nth > count]
        for fault in due:
            self._strike_driver(fault, driver)

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
        for fault in self._at_machines:
            if fault.occasion is occasion:
                self._try_after_delay(fault)

    def _try_after_delay(self, fault: AtMachine) -> None:
        def strike() -> None:
            if fault in self._at_machines and self._strikes(fault):
                self._at_machines.remove(fault)
                if fault.kind not in AT_STORE:  # the store tells when it takes effect
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
        if fault.kind in AT_STORE:
            return self._strikes_store(fault)
        computer = world.current_computer()
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
