"""A whole world in one thread: a laptop with its drivers and its user, a cloud, its machines, and what goes wrong.

The driver, its phases, the ledger, the mirror and the fetching are the product's, composed over the same seams as in
`orchestrator.wiring`. A driver may die at every passage of a seam; then the next one begins. The user is patient: an
error is answered by `attach`, three errors by `down`, and every end that is not `done` by `resume`, so that every
schedule ends with a model whose bytes are known.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

from orchestrator import driver as product
from orchestrator.clock import Clock
from orchestrator.courier import Courier, Delivery, InlineCourier
from orchestrator.errors import RunConflict
from orchestrator.fetch import holds
from orchestrator.home import Home
from orchestrator.host import ConnectionLost, Host
from orchestrator.ledger import Ledger
from orchestrator.lifecycle import EndReason, Standing, State, Wish
from orchestrator.phases.context import RunContext
from orchestrator.spec import Compute, Data, Limits, Model, Output, RunSpec, Subject
from providers.api import (
    Access,
    MachineId,
    MachineProvider,
    SshAccess,
)
from providers.errors import CloudboothError
from providers.retrying import RetryingProvider
from providers.testing.simulated_cloud import Rental, SimulatedCloud
from providers.testing.virtual_clock import VirtualClock
from remote_trainer import wire
from tests.simulation import computer as machines
from tests.simulation.computer import Computer
from tests.simulation.host import SimulatedHost
from tests.simulation.invariants import ENABLED, Invariant, Violation
from tests.simulation.schedule import LEFT_TO_THE_PRODUCT, AtMoment, AtPassage, Kind, Schedule, WorldFault
from tests.simulation.seams import ToldReporter, WatchedClock, WatchedLedger, WatchedProvider

RUN = "run"
MAX_DRIVERS = 60
MAX_COST_USD = 50.0
"""Far away: what happens at the ceiling is not simulated yet."""
PATIENCE_S = 24 * 3600.0
"""Of virtual time: no schedule's faults last for so long."""
RAM_DISK = Path("/dev/shm")
PHOTO = b"not a picture, which nobody here looks at" * 8


class DriverKilled(BaseException):
    """SIGKILL, as far as one thread can have it: it comes out of a seam, and the driver never passes another."""


@dataclass(frozen=True)
class Outcome:
    """What became of a schedule."""

    seed: int
    violation: Violation | None
    fired: tuple[Kind, ...]
    """In the order in which they first took effect."""
    drivers: int
    virtual_s: float
    billed_usd: float
    passages: frozenset[str]
    states: tuple[str, ...]
    """The ledger's moves."""
    trace: tuple[str, ...]

    def without_trace(self) -> Outcome:
        """Small enough to be sent between processes by the thousand."""
        return replace(self, trace=())


@dataclass
class Driver:
    """One process."""

    number: int
    epoch: int
    gives_up_s: float
    """When a person would no longer wait for it."""
    dead: bool = False
    dies_after: int | None = None
    """Passages until it is killed; None: not by this."""
    spares_folder: bool = False
    """It is killed before it removes the run's folder from a host."""


class World:
    """Made for one schedule. `play` runs it to its end; `close` removes its disks.

    A subclass may replace what a mutation test wants to break.
    """

    def __init__(self, schedule: Schedule, *, enabled: frozenset[Invariant] = ENABLED, verbose: bool = False) -> None:
        self.schedule, self.enabled, self._verbose = schedule, enabled, verbose
        self.random = Random(schedule.seed * 7919 + 1)
        self.root = Path(tempfile.mkdtemp(prefix="simulation-", dir=RAM_DISK if RAM_DISK.is_dir() else None))
        self.clock = VirtualClock()
        self.clock.after_each = self._check_processes
        self.cloud = SimulatedCloud(
            self.clock, schedule.cloud, boot_s=schedule.boot_s, release_s=self.random.choice((1.0, 15.0))
        )
        self.cloud.hooks.on_boot = self._boot
        self.cloud.hooks.on_gone = self._gone
        self.cloud.hooks.on_notice = self._notice
        self.cloud.hooks.on_fault = self.fired_now
        self.provider = self.make_provider()
        self._fired: dict[Kind, None] = {}
        self._trace: list[str] = []
        self.computers: dict[str, Computer] = {}
        self.standing: Computer | None = self._computer("gpu-box") if schedule.standing else None
        self.drivers: list[Driver] = []
        """Those at work now, the innermost last."""
        self.streams = 0
        """Of events, that a driver holds open now."""
        self.begun = 0
        self.created_tags: set[str] = set()
        self.helped = False
        """The user had to do more than attach."""
        self._counts: Counter[str] = Counter()
        self._due: dict[tuple[str, int], list[AtPassage]] = {}
        for fault in schedule.passages:
            self._due.setdefault((fault.point, fault.nth), []).append(fault)
        self._damage_next = False
        for moment in schedule.moments:
            self.clock.at(moment.at_s, lambda moment=moment: self._strike(moment))  # type: ignore[misc]
        self.home = Home(self.root / "home")
        self.spec = _spec(self.root / "models", schedule.training.deadline_s)
        self.ledger = self.make_ledger()
        self._stage_job()

    # ---- what a mutation test may replace --------------------------------------------------------------------------

    def make_provider(self) -> MachineProvider:
        return WatchedProvider(self.cloud, self)

    def make_ledger(self) -> Ledger:
        ledger = WatchedLedger(self.home.ledger_file, self.clock)
        ledger.world = self
        return ledger

    def make_host(self, computer: Computer) -> Host:
        return SimulatedHost(computer, self)

    def make_courier(self, delivery: Delivery) -> Courier:
        return InlineCourier(delivery)

    def drive(self, context: RunContext) -> EndReason:
        return product.drive(context)

    # ---- the play --------------------------------------------------------------------------------------------------

    def play(self) -> Outcome:
        violation: Violation | None = None
        try:
            self._until_done()
            self._check_home()
            self._check_at_rest()
        except Violation as found:
            violation = found
            self.note(f"VIOLATION {found}")
        states = tuple(move.to_state.value for move in self.ledger.moves(RUN))
        return Outcome(
            self.schedule.seed, violation, tuple(self._fired), self.begun, self.clock.monotonic(),
            self.cloud.billed_usd(), frozenset(self._counts), states, tuple(self._trace),
        )  # fmt: skip

    def close(self) -> None:
        self.ledger.close()
        for computer in self.computers.values():
            machines.forget_disk(computer)
        shutil.rmtree(self.root, ignore_errors=True)

    def _until_done(self) -> None:
        errors_in_a_row = 0
        while self.begun < MAX_DRIVERS:
            reason, failed = self._new_driver()
            self._check_home()
            if reason is EndReason.DONE:
                return
            self.clock.sleep(10 ** self.random.uniform(0, 2.5))
            if reason is not None:
                self.helped = True
                self.note("user: resume")
                self.ledger.start_attempt(RUN, self.ledger.become_driver(RUN))
            errors_in_a_row = errors_in_a_row + 1 if failed else 0
            if errors_in_a_row >= 3 and self.ledger.run(RUN).state is not State.ENDED:
                self.helped = True
                self.note("user: down")
                self.ledger.set_wish(RUN, Wish.DOWN)
        state = self.ledger.run(RUN).state.value
        self.violate(Invariant.IT_ENDS, f"after {self.begun} drivers the run is still {state}")

    def _new_driver(
        self, dies_after: int | None = None, *, spares_folder: bool = False
    ) -> tuple[EndReason | None, bool]:
        """Why the run ended (None: it has not), and whether the user saw an error."""
        self.begun += 1
        driver = Driver(
            self.begun,
            self.ledger.become_driver(RUN),
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
            if self.ledger.run(RUN).driver_epoch != driver.epoch:
                self.note(f"driver {driver.number}, which was overtaken, fails: {error!r}")
                return None, True
            self.violate(Invariant.NO_CRASH, traceback.format_exc())
            return None, True
        finally:
            driver.dead = True
            self.drivers.remove(driver)

    def _context(self, epoch: int) -> RunContext:
        clock: Clock = WatchedClock(self)
        return RunContext(
            run=self.ledger.run(RUN),
            epoch=epoch,
            ledger=self.ledger,
            provider=RetryingProvider(self.provider, clock.sleep, self.note),
            machine_stands=self.schedule.standing,
            connect=self._connect,
            clock=clock,
            reporter=ToldReporter(self),
            home=self.home.run(RUN),
            spec=self.spec,
            new_courier=self.make_courier,
        )

    def _connect(self, access: Access) -> Host:
        assert isinstance(access, SshAccess)
        machine = access.host.removesuffix(".simulated")
        return self.make_host(self.standing or self.computers[machine])

    def _stage_job(self) -> None:
        home, numbers = self.home.run(RUN), self.schedule.training
        image = home.staged / "data" / "instance" / "1.png"
        image.parent.mkdir(parents=True)
        image.write_bytes(PHOTO)
        pictures = (wire.ImageSpec("1.png", hashlib.sha256(PHOTO).hexdigest(), 64, 64),)
        train = wire.TrainSpec(steps=numbers.steps, checkpoint_every=numbers.checkpoint_every)
        job = wire.Job(
            RUN, RUN, "builtin:tiny", train,
            (wire.DatasetSpec("instance", "instance", "data/instance", "x", pictures),), ("diffusers",),
        )  # fmt: skip
        home.job_file.write_bytes(wire.dumps(job))
        self.ledger.add_run(RUN, "simulated", "{}", "{}")

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
        self._counts[point] += 1
        if self.clock.monotonic() > driver.gives_up_s:
            self.violate(Invariant.IT_ENDS, f"driver {driver.number} has been at work for a day")
            self._kill(driver)
        if self._verbose and not point.startswith("chunk follow"):
            self.note(f"driver {driver.number} {point} #{self._counts[point]}")
        if driver.spares_folder and point == "run forget:before":
            self._kill(driver)
        if driver.dies_after is not None:
            driver.dies_after -= 1
            if driver.dies_after <= 0:
                self._kill(driver)
        for fault in self._due.pop((point, self._counts[point]), ()):
            self._strike_at(fault, driver)

    def damage(self, chunk: bytes) -> bytes:
        if not self._damage_next or not chunk:
            return chunk
        self._damage_next = False
        self.fired_now(WorldFault.DAMAGED)
        return bytes([chunk[0] ^ 1]) + chunk[1:]

    def _strike_at(self, fault: AtPassage, driver: Driver) -> None:
        match fault.kind:
            case WorldFault.DRIVER_KILLED:
                self.fired_now(fault.kind)
                self._kill(driver)
            case WorldFault.ASLEEP:
                self.fired_now(fault.kind)
                for computer in self.computers.values():
                    computer.connections += 1
                self.clock.sleep(fault.length_s)
            case WorldFault.CUT:
                self.fired_now(fault.kind)
                raise ConnectionLost("the connection was cut")
            case WorldFault.DAMAGED:
                self._damage_next = True
            case WorldFault.TWO_DRIVERS if len(self.drivers) == 1 and not self._is_unaware(fault.point):
                self._overtake(fault.kind, spares_folder=True)
            case WorldFault.OVERTAKEN_UNAWARE if len(self.drivers) == 1:
                self._overtake(fault.kind, spares_folder=False)
            case _:
                pass

    def _is_unaware(self, point: str) -> bool:
        """Whether the driver at work could not notice in time that it was overtaken: see BEYOND_TODAY."""
        run = self.ledger.run(RUN)
        newest = self.ledger.machine(RUN, run.attempt)
        streams = self.streams > 0 or point.startswith("receive follow")
        return streams or (newest is not None and newest.standing is Standing.UNSETTLED)

    def _overtake(self, kind: WorldFault, *, spares_folder: bool) -> None:
        self.fired_now(kind)
        self._new_driver(self.random.choice((None, None, self.random.randint(1, 120))), spares_folder=spares_folder)

    def _kill(self, driver: Driver) -> None:
        driver.dead = True
        raise DriverKilled

    # ---- faults that come by themselves ----------------------------------------------------------------------------

    def _strike(self, fault: AtMoment) -> None:
        until_s = self.clock.monotonic() + fault.length_s
        computer = self._current_computer()
        match fault.kind:
            case WorldFault.USER_STOPS | WorldFault.USER_ENDS:
                if self.ledger.run(RUN).state is not State.ENDED:
                    self.fired_now(fault.kind)
                    drivers, self.drivers = self.drivers, []  # another process writes it, which nothing disturbs
                    self.ledger.set_wish(RUN, Wish.STOP if fault.kind is WorldFault.USER_STOPS else Wish.DOWN)
                    self.drivers = drivers
                return
            case _ if computer is None:
                return
            case WorldFault.UNREACHABLE:
                computer.unreachable_until_s = until_s
                computer.connections += 1
            case WorldFault.DISK_FULL:
                computer.disk_full_until_s = until_s
            case WorldFault.SUPERVISOR_KILLED if computer.living():
                computer.living()[0].kill()
            case WorldFault.TRAINER_KILLED if computer.stages():
                computer.stages()[0].end(-9)
            case WorldFault.TRAINER_HANGS if not computer.hangs and computer.stages():
                computer.hangs = True
                self.clock.after(1200, lambda: setattr(computer, "hangs", False))
            case WorldFault.CONTAINER_RESTARTED:
                computer.restart(pause_s=10.0)
            case WorldFault.HOST_GONE | WorldFault.HOST_DEAD if not self.schedule.standing:
                computer.die()
                if fault.kind is WorldFault.HOST_GONE:
                    self.clock.after(fault.length_s, lambda: self.cloud.vanish(MachineId(computer.name)))
            case _:
                return
        self.fired_now(fault.kind)

    def fired_now(self, kind: Kind) -> None:
        self._fired.setdefault(kind)
        self.note(f"fault: {kind.value}")

    def _current_computer(self) -> Computer | None:
        if self.standing is not None:
            return self.standing
        living = [c for c in self.computers.values() if c.alive]
        return living[-1] if living else None

    # ---- machines --------------------------------------------------------------------------------------------------

    def _boot(self, rental: Rental) -> None:
        if self.standing is None:
            self._computer(str(rental.id))

    def _gone(self, rental: Rental) -> None:
        if self.standing is None and rental.id in self.computers:
            self.computers[rental.id].die()

    def _notice(self, rental: Rental) -> None:
        if rental.id in self.computers:
            for process in self.computers[rental.id].living():
                process.terminate()

    def _computer(self, name: str) -> Computer:
        made = Computer(
            name, self.root / "machines" / name, self.clock, self.schedule.training, self.schedule.skew_s, self
        )
        if self.schedule.skew_s:
            self.fired_now(WorldFault.CLOCK_SKEW)
        self.computers[name] = made
        return made

    def said(self, computer: Computer, event: wire.Event) -> None:
        if self._verbose:
            self.note(f"{computer.name} says {event}")

    # ---- rules -----------------------------------------------------------------------------------------------------

    def violate(self, invariant: Invariant, detail: str) -> None:
        if invariant in self.enabled:
            raise Violation(invariant, detail)

    def note(self, text: str) -> None:
        line = f"{self.clock.monotonic():10.2f}  {text}"
        self._trace.append(line)
        if self._verbose:
            print(line)

    def check_create(self, tag: str) -> None:
        known = [machine.tag for machine in self.ledger.machines(RUN)]
        if tag in self.created_tags or tag not in known:
            self.violate(Invariant.INTENT_BEFORE_CREATE, f"{tag}; intents {known}")
        self.created_tags.add(tag)

    def check_ledger(self) -> None:
        """After every transaction."""
        living = {rental.tag for rental in self.cloud.living()}
        if not living and self.standing is None:
            return
        for machine in self.ledger.machines(RUN):
            if machine.absent_at is not None and machine.tag in living:
                self.violate(Invariant.ABSENCE_IS_TRUE, f"{machine.tag} is on record as absent and lives")
        if self.ledger.run(RUN).state is State.ENDED:
            if living:
                self.violate(Invariant.ENDED_RUN_HAS_NO_MACHINE, f"{sorted(living)}")
            self._check_nothing_runs()

    def _check_nothing_runs(self) -> None:
        if self.standing is not None and (self.standing.living() or self.standing.stages()):
            self.violate(Invariant.ENDED_RUN_HAS_NO_PROCESS, f"{len(self.standing.living())} supervisors live")

    def _check_processes(self) -> None:
        for computer in self.computers.values():
            if len(computer.supervisors) > 1 and (len(computer.living()) > 1 or len(computer.stages()) > 1):
                self.violate(
                    Invariant.ONE_SUPERVISOR,
                    f"{len(computer.living())} supervisors and {len(computer.stages())} stages on {computer.name}",
                )

    def acted(self, computer: Computer, run_folder: str, epoch: int | None, verb: str) -> None:
        own = self.drivers[-1].epoch
        highest = max(own, computer.epochs.get(run_folder, 0))
        if epoch is not None:  # the call has shown it to the host
            computer.epochs[run_folder] = highest
        self._check_processes()
        if own < self.ledger.run(RUN).driver_epoch and own < highest:
            rule = Invariant.STALE_DRIVER_SENDS_NOTHING if epoch is None else Invariant.STALE_DRIVER_STARTS_NOTHING
            self.violate(rule, f"`{verb}` by epoch {own} on {computer.name}, which has seen {highest}")

    def trainer_started(self, computer: Computer, step: int) -> None:
        home = [a.step for a in self.ledger.artifacts(RUN) if a.kind == "checkpoint" and Path(a.folder).exists()]
        self.note(f"{computer.name} trains from step {step}")
        if home and step < max(home):
            self.violate(Invariant.NO_LOST_WORK, f"from step {step}, while step {max(home)} had come home")

    def _check_home(self) -> None:
        """What lies on the laptop's disk, after every driver."""
        newest_checkpoint: Path | None = None
        for artifact in self.ledger.artifacts(RUN):
            folder = Path(artifact.folder)
            if artifact.kind == "checkpoint":
                newest_checkpoint = folder
                if not folder.exists():
                    continue  # only the newest are kept
            if not _is_whole(folder, artifact.manifest_sha256):
                self.violate(Invariant.ARTIFACTS, f"{artifact.kind} of step {artifact.step} is damaged or missing")
        if newest_checkpoint is not None and not newest_checkpoint.exists():
            self.violate(Invariant.ARTIFACTS, f"the newest checkpoint is missing: {newest_checkpoint.name}")
        logs: dict[str, bytes] = {}
        for computer in self.computers.values():
            logs |= computer.every_log()
        for mirror in self.home.run(RUN).root.glob("events-*.jsonl"):
            incarnation = mirror.stem.removeprefix("events-")
            here = mirror.read_bytes()
            here = here[: here.rfind(b"\n") + 1]
            if not logs.get(incarnation, b"").startswith(here):
                self.violate(Invariant.MIRROR, f"{mirror.name} differs from the host's log")
        run = self.ledger.run(RUN)
        if run.state is State.ENDED and run.reason is EndReason.DONE:
            expected = machines.weights(machines.state_after(self.schedule.training.steps, RUN))
            model = self.root / "models" / RUN / machines.WEIGHTS
            if not model.exists() or model.read_bytes() != expected:
                self.violate(Invariant.WEIGHTS, "the model is missing or another one")

    def _check_at_rest(self) -> None:
        self.clock.sleep(3600)
        living = [rental.tag for rental in self.cloud.living()]
        if living:
            self.violate(Invariant.ENDED_RUN_HAS_NO_MACHINE, f"an hour after the end: {living}")
        self._check_nothing_runs()
        self._check_home()
        if Invariant.LATECOMERS in self.enabled:
            self.clock.sleep(24 * 3600)
            if self.cloud.living():
                self.violate(Invariant.LATECOMERS, f"{[rental.tag for rental in self.cloud.living()]}")
        limit_s = (self.schedule.training.deadline_s or 0.0) + 3600
        for rental in self.cloud.rentals.values():
            lived_s = (self.clock.monotonic() if rental.gone_s is None else rental.gone_s) - rental.created_s
            if lived_s > limit_s:
                self.violate(Invariant.LEASE, f"{rental.id} lived for {lived_s:.0f} s")
        if self.cloud.billed_usd() > MAX_COST_USD + 60 * max(s.on_demand_usd for s in self.cloud._shelves) / 3600:
            self.violate(Invariant.CEILING, f"${self.cloud.billed_usd():.2f}")
        rented = not self.schedule.standing  # one's own machine is one's own to mend
        unattended = rented and set(self._fired) <= LEFT_TO_THE_PRODUCT and self.schedule.training.deadline_s is None
        if self.helped and unattended:
            self.violate(Invariant.RECOVERY, "the user had to say more than `attach`")


def play(schedule: Schedule, *, enabled: frozenset[Invariant] = ENABLED, verbose: bool = False) -> Outcome:
    """One schedule in a world of its own."""
    world = World(schedule, enabled=enabled, verbose=verbose)
    try:
        return world.play()
    finally:
        world.close()


def _is_whole(folder: Path, manifest_sha256: str) -> bool:
    try:
        raw = (folder / wire.MANIFEST_NAME).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(raw).hexdigest() == manifest_sha256 and holds(folder, wire.Manifest.from_bytes(raw))


@cache
def _template() -> RunSpec:
    return RunSpec(
        name=RUN,
        subject=Subject(instance_prompt="a photo"),
        data=Data(instance=Path("photos")),
        model=Model(base="builtin:tiny"),
        compute=Compute(provider="simulated", market="spot-then-on-demand"),
    )


def _spec(output: Path, deadline_s: float | None) -> RunSpec:
    hours = None if deadline_s is None else deadline_s / 3600
    limits = Limits(max_cost_usd=MAX_COST_USD, max_hours=hours)
    return _template().model_copy(update={"output": Output(folder=output), "limits": limits})
