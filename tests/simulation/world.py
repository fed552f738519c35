"""A whole world in one thread: a laptop with its drivers and its user, a cloud, its machines, and what goes wrong.

The driver, its phases, the ledger, the mirror and the fetching are the product's, composed over the same seams as in
`orchestrator.wiring`. A driver may die at every passage of a seam; then the next one begins. The user (`person`) is
patient, so that every schedule ends with a model whose bytes are known.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

from orchestrator import driver as product
from orchestrator.clock import Clock
from orchestrator.courier import Courier, Delivery, InlineCourier
from orchestrator.errors import RunConflict
from orchestrator.home import Home
from orchestrator.host import Host
from orchestrator.latecomers import give_back_latecomers, give_back_strays, latecomers, strays
from orchestrator.ledger import Ledger, RunRecord
from orchestrator.lifecycle import EndReason, Wish
from orchestrator.phases.context import RunContext
from orchestrator.spec import RunSpec
from orchestrator.waiting import waits_of_a_driver
from providers.api import Access, MachineProvider, SelfRelease, SshAccess
from providers.errors import CloudboothError
from providers.retrying import RetryingProvider
from providers.testing.machine_calls import SELF_RELEASE, Answer, environment
from providers.testing.rentals import Rental
from providers.testing.simulated_cloud import SHELVES, Hooks, SimulatedCloud
from providers.testing.virtual_clock import VirtualClock
from remote_trainer import wire
from remote_trainer.run_folder import is_disk_full
from tests.simulation import computer as machines
from tests.simulation.computer import Computer
from tests.simulation.fleet import Fleet
from tests.simulation.guard import Guard, Program
from tests.simulation.host import SimulatedHost
from tests.simulation.invariants import ENABLED, Invariant, Violation
from tests.simulation.job import RUN, spec_of, stage_job
from tests.simulation.kinds import WorldFault
from tests.simulation.misfortune import Misfortune
from tests.simulation.outcome import Driver, DriverKilled, Outcome
from tests.simulation.person import until_done
from tests.simulation.rules import Rules
from tests.simulation.schedule import Abilities, Occasion, Schedule
from tests.simulation.seams import (
    AbsentCourier,
    ToldReporter,
    WatchedClock,
    WatchedLedger,
    WatchedProvider,
    WatchedStopper,
    WatchedStore,
)

PATIENCE_S = 24 * 3600.0
"""Of virtual time: no schedule's faults last for so long."""
RAM_DISK = Path("/dev/shm")


class World:
    """Made for one schedule. `play` runs it to its end; `close` removes its disks.

    A subclass may replace what a mutation test wants to break.
    """

    guard_type = Guard
    photos = 1

    def __init__(self, schedule: Schedule, *, enabled: frozenset[Invariant] = ENABLED, verbose: bool = False) -> None:
        self.schedule, self._verbose = schedule, verbose
        self.random = Random(schedule.seed * 7919 + 1)
        self.root = Path(tempfile.mkdtemp(prefix="simulation-", dir=RAM_DISK if RAM_DISK.is_dir() else None))
        self.home = Home(self.root / "home")
        self.model_folder = self.root / "models" / RUN
        self._trace: list[str] = []
        self.clock = VirtualClock()
        self.rules = Rules(self, enabled)
        self.misfortune = Misfortune(self)
        self.fleet = Fleet(self)
        self.clock.after_each = self.rules.after_event
        self.cloud = SimulatedCloud(
            self.clock,
            shelves=[shelf.at(schedule.price_factor) for shelf in SHELVES],
            boot_s=schedule.boot_s,
            release_s=self.random.choice((1.0, 15.0)),
            self_release=_self_release(schedule.abilities),
        )
        self.cloud.hooks = Hooks(
            on_boot=self.fleet.boot, on_stop=self.fleet.stopped, on_gone=self.fleet.gone, on_notice=self.fleet.notice,
            on_fault=self.misfortune.fired_now,
        )  # fmt: skip
        self.provider = self.make_provider()
        self.store = WatchedStore(self) if schedule.storage else None
        if self.store is not None:
            self.store.on_fault = self.misfortune.fired_now
        self.standing: Computer | None = self.fleet.add("gpu-box") if schedule.standing else None
        self.drivers: list[Driver] = []
        """Those at work now, the innermost last."""
        self.over = False
        """The run is done: what has not gone wrong by now never will."""
        self.full_until_s = 0.0
        """The laptop's disk is full before."""
        self._full_told = True
        self.offline_until_s = 0.0
        """The laptop has no network before."""
        self.streams = 0
        """Of events, that a driver holds open now."""
        self.begun = 0
        self.helped = False
        """The user had to do more than attach."""
        self.raised = False
        """The user had to allow more money."""
        self.max_cost_usd = schedule.max_cost_usd
        self.spec = self.make_spec()
        self.ledger = self.make_ledger()
        self.make_job()
        self.ledger.add_run(RUN, "simulated", "{}", "{}")
        self.misfortune.begin()

    # ---- what a mutation test may replace --------------------------------------------------------------------------

    def make_provider(self) -> MachineProvider:
        return (WatchedStopper if self.schedule.abilities.stops else WatchedProvider)(self.cloud, self)

    def make_ledger(self) -> Ledger:
        ledger = WatchedLedger(self.home.ledger_file, self.clock)
        ledger.world = self
        return ledger

    def make_host(self, computer: Computer) -> Host:
        return SimulatedHost(computer, self)

    def make_courier(self, delivery: Delivery) -> Courier:
        return InlineCourier(delivery) if self.schedule.courier else AbsentCourier()

    def make_guard(self, computer: Computer, program: Program, workdir: Path, rental: Rental) -> Guard:
        def call(method: str, url: str, authorization: str) -> int:
            if method == Answer.TERMINATE.value:
                self.rules.before_own_end(computer)
            return self.cloud.answer_to_machine(method, url, authorization)

        return self.guard_type(computer, program, workdir, environment(rental), call)

    def make_job(self) -> None:
        stage_job(self.home.run(RUN), self.schedule.training, self.photos)

    def make_spec(self) -> RunSpec:
        schedule = self.schedule
        return spec_of(self.model_folder.parent, schedule, self.max_cost_usd)

    def later_command(self) -> None:
        """What every command does first, days after the end too."""
        machines, note = self.ledger.machines(RUN), self.note
        if expected := latecomers(machines, self.clock.now()):
            give_back_latecomers(self.cloud, self.ledger, expected, note)
        left_behind = strays(self.ledger.machines(RUN), [self.run()])
        give_back_strays(self.cloud, self.ledger, left_behind, self.clock, note)

    def drive(self, context: RunContext) -> EndReason:
        return product.drive(context)

    @property
    def run_name(self) -> str:
        return RUN

    def run(self) -> RunRecord:
        return self.ledger.run(RUN)

    # ---- the play --------------------------------------------------------------------------------------------------

    def play(self) -> Outcome:
        violation: Violation | None = None
        try:
            until_done(self)
            self.over = True
            self.rules.at_home()
            self.rules.at_rest()
        except Violation as found:
            violation = found
            self.note(f"VIOLATION {found}")
        states = tuple(move.to_state.value for move in self.ledger.moves(RUN))
        return Outcome(
            self.schedule.seed, violation, tuple(self.misfortune.strikes), self.begun, self.clock.monotonic(),
            self.cloud.spent_usd(), frozenset(self.misfortune.passed), states, tuple(self._trace),
        )  # fmt: skip

    def close(self) -> None:
        self.ledger.close()
        for computer in self.computers.values():
            machines.forget_disk(computer)
        shutil.rmtree(self.root, ignore_errors=True)

    def new_driver(
        self, dies_after: int | None = None, *, spares_folder: bool = False
    ) -> tuple[EndReason | None, bool]:
        """Why the run ended (None: it has not), and whether the user saw an error."""
        try:
            epoch = self.ledger.become_driver(RUN)
        except CloudboothError as error:
            self.note(f"another driver cannot begin: {error}")
            return None, True
        self.begun += 1
        driver = Driver(
            self.begun,
            epoch,
            self.clock.monotonic() + PATIENCE_S,
            dies_after=dies_after,
            spares_folder=spares_folder,
        )
        self.note(f"driver {driver.number} begins with epoch {driver.epoch}")
        self.drivers.append(driver)
        try:
            reason = self.drive(self._context(driver.epoch))
            self.note(f"driver {driver.number}: the run has ended: {reason.value}")
            return reason, False
        except DriverKilled:
            self.note(f"driver {driver.number} is killed")
            return None, False
        except RunConflict as error:
            self.note(f"driver {driver.number} gives way: {error}")
            return None, True
        except CloudboothError as error:
            self.note(f"driver {driver.number} fails: {error}")
            return None, True
        except Exception as error:
            if self.run().driver_epoch != driver.epoch:
                self.note(f"driver {driver.number}, which was overtaken, fails: {error!r}")
                return None, True
            if isinstance(error, OSError) and is_disk_full(error):
                self.note(f"driver {driver.number} fails: {error}")
                return None, True
            self.rules.violate(Invariant.NO_CRASH, traceback.format_exc())
            return None, True
        finally:
            driver.dead = True
            self.drivers.remove(driver)

    def _context(self, epoch: int) -> RunContext:
        clock: Clock = WatchedClock(self)
        return RunContext(
            run=self.run(),
            epoch=epoch,
            ledger=self.ledger,
            provider=RetryingProvider(self.provider, waits_of_a_driver(self.ledger, clock, RUN, epoch), self.note),
            machine_stands=self.schedule.standing,
            connect=self._connect,
            clock=clock,
            reporter=ToldReporter(self),
            home=self.home.run(RUN),
            spec=self.spec,
            new_courier=self.make_courier,
            store=self.store,
            settles_inline=True,
        )

    def _connect(self, access: Access) -> Host:
        assert isinstance(access, SshAccess)
        machine = access.host.removesuffix(".simulated")
        return self.make_host(self.standing or self.computers[machine])

    # ---- passages --------------------------------------------------------------------------------------------------

    @contextmanager
    def passage(self, name: str) -> Iterator[None]:
        self.enter(name)
        yield
        self.leave(name)

    def enter(self, point: str) -> None:
        self._pass(f"{point}:before")

    def leave(self, point: str) -> None:
        self._pass(f"{point}:after")

    def _pass(self, point: str) -> None:
        if not self.drivers:
            return
        driver = self.drivers[-1]
        if driver.dead:
            raise DriverKilled
        if self.clock.monotonic() > driver.gives_up_s:
            self.rules.violate(Invariant.IT_ENDS, f"driver {driver.number} has been at work for a day")
            self.kill(driver)
        if self._verbose and not point.startswith("chunk follow"):
            self.note(f"driver {driver.number} {point} #{self.misfortune.passed[point] + 1}")
        if driver.spares_folder and point == "run forget:before":
            self.kill(driver)
        if driver.dies_after is not None:
            driver.dies_after -= 1
            if driver.dies_after <= 0:
                self.kill(driver)
        self.misfortune.passes(point, driver)

    def arrives(self, chunk: bytes) -> bytes:
        """A piece of a stream, on its way to the laptop's disk."""
        self.require_room()
        return self.misfortune.damage(chunk)

    def fill_disk(self, length_s: float) -> None:
        self.full_until_s, self._full_told = self.clock.monotonic() + length_s, False

    def require_room(self) -> None:
        """Raises the error of a full disk."""
        if self.clock.monotonic() < self.full_until_s:
            if not self._full_told:
                self._full_told = True
                self.misfortune.fired_now(WorldFault.LAPTOP_FULL)
            raise OSError(errno.ENOSPC, "No space left on device")

    def acted(self, computer: Computer, run_folder: str, verb: str) -> None:
        self.rules.after_call(computer, run_folder, verb)

    def overtake(self, *, spares_folder: bool) -> None:
        """Another process takes the run over, in the middle of a call of this one."""
        self.new_driver(self.random.choice((None, None, self.random.randint(1, 120))), spares_folder=spares_folder)

    def kill(self, driver: Driver) -> None:
        driver.dead = True
        raise DriverKilled

    def told(self, text: str) -> None:
        """By the driver. Whether a silent machine is dead is what a person has to find out; this one knows."""
        self.note(text)
        dead = (machine for machine in self.cloud.living() if not self.computers[machine.id].alive)
        if "has not answered this computer" in text and any(machine.tag in text for machine in dead):
            self.helped = True
            self.wish(Wish.DOWN)

    def wish(self, wish: Wish) -> None:
        """Another process writes it, which nothing disturbs."""
        drivers, self.drivers = self.drivers, []
        self.ledger.set_wish(RUN, wish)
        self.drivers = drivers

    # ---- machines --------------------------------------------------------------------------------------------------

    @property
    def computers(self) -> dict[str, Computer]:
        """By name; of a rented one that is its machine's id."""
        return self.fleet.computers

    @property
    def offline(self) -> bool:
        return self.clock.monotonic() < self.offline_until_s

    # ---- what computers tell ---------------------------------------------------------------------------------------

    def trainer_started(self, computer: Computer, step: int) -> None:
        self.note(f"{computer.name} trains from step {step}")
        self.rules.trainer_started(step)

    def said(self, computer: Computer, event: wire.Event) -> None:
        if isinstance(event, wire.Uploaded):
            self.rules.uploaded(computer, event)
        if self._verbose:
            self.note(f"{computer.name} says {event}")

    def happened(self, computer: Computer, occasion: Occasion) -> None:
        self.misfortune.happened(occasion)

    def holds_training(self, steps_left: int) -> bool:
        return self.misfortune.holds_training(steps_left)

    def note(self, text: str) -> None:
        line = f"{self.clock.monotonic():10.2f}  {text}"
        self._trace.append(line)
        if self._verbose:
            print(line)


def play(schedule: Schedule, *, enabled: frozenset[Invariant] = ENABLED, verbose: bool = False) -> Outcome:
    """One schedule in a world of its own."""
    began_s = time.process_time()
    world = World(schedule, enabled=enabled, verbose=verbose)
    try:
        return replace(world.play(), processor_s=time.process_time() - began_s)
    finally:
        world.close()


def _self_release(abilities: Abilities) -> SelfRelease | None:
    if not abilities.machines_end_themselves:
        return None
    return SELF_RELEASE if abilities.machines_stop_themselves else replace(SELF_RELEASE, stop=None)
