"""The machines of a simulated world: one for each rental, or the one that the user owns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from providers.testing.rentals import Rental
from providers.testing.simulated_cloud import SHELVES
from tests.simulation.computer import Computer
from tests.simulation.guard import Program
from tests.simulation.schedule import Occasion

if TYPE_CHECKING:
    from tests.simulation.world import World


class Fleet:
    """What the cloud does to machines, on the inside."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.computers: dict[str, Computer] = {}

    @property
    def current(self) -> Computer | None:
        """The one at work now, as far as there is one."""
        if self._world.standing is not None:
            return self._world.standing
        living = [computer for computer in self.computers.values() if computer.alive and computer.up]
        return living[-1] if living else None

    def boot(self, rental: Rental) -> None:
        if self._world.standing is not None:
            return
        known = self.computers.get(rental.id)
        if known is not None:
            known.come_up()
        else:
            slow = self._world.schedule.slow if rental.offer.gpu == SHELVES[0].gpu else 1.0
            known = self.add(str(rental.id), rental.has_gpu, slow)
            program = Program.of(rental.boot.start_command)
            if program is not None:
                workdir = known.disk / rental.offer.workdir.removeprefix("~/")
                known.guard = self._world.make_guard(known, program, workdir, rental)
                known.guard.begin()
        self._world.happened(known, Occasion.BOOT)

    def stopped(self, rental: Rental) -> None:
        if rental.id in self.computers:
            self.computers[rental.id].stop()

    def gone(self, rental: Rental) -> None:
        if self._world.standing is None and rental.id in self.computers:
            self.computers[rental.id].die()

    def notice(self, rental: Rental) -> None:
        if rental.id in self.computers:
            for process in self.computers[rental.id].living():
                process.terminate()

    def add(self, name: str, has_gpu: bool = True, slow: float = 1.0) -> Computer:
        world = self._world
        folder = world.root / "machines" / name
        made = self.computers[name] = Computer(
            name, folder, world.clock, world.schedule.training, world, has_gpu, world.store, slow
        )
        return made
