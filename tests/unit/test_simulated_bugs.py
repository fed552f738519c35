"""The simulation sees what it is there to see: one planted bug for every rule."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from orchestrator.courier import Courier, Delivery, InlineCourier, checkpoint_home
from orchestrator.driver import PHASES
from orchestrator.host import Host
from orchestrator.ledger import Ledger, RunRecord
from orchestrator.lifecycle import EndReason, Facts, Phase, State
from orchestrator.phases.context import RunContext
from orchestrator.progress import Progress
from orchestrator.spec import RunSpec
from providers.api import BootPlan, Machine, MachineId, MachineProvider, Offer
from providers.errors import AuthRejected, CloudboothError, MachineGone
from providers.testing.faults import CloudFault
from remote_trainer import wire
from remote_trainer.lease import GuardAction
from tests.simulation.computer import Computer
from tests.simulation.guard import Guard
from tests.simulation.host import SimulatedHost
from tests.simulation.invariants import ENABLED, Invariant, Violation
from tests.simulation.job import RUN
from tests.simulation.kinds import Kind, WorldFault
from tests.simulation.schedule import draw
from tests.simulation.seams import WatchedLedger, WatchedProvider
from tests.simulation.trainer import WEIGHTS
from tests.simulation.world import World

Mutant = Callable[[RunContext, Facts], Facts]


WITHIN_SEEDS = 1000


ON_STANDING_MACHINES = frozenset({Invariant.ENDED_RUN_HAS_NO_PROCESS, Invariant.STALE_DRIVER_STARTS_NOTHING})
"""What only a machine that outlives its run can show: the other schedules need not be played for it."""
ONLY_AFTER: dict[Invariant, Kind] = {
    Invariant.STALE_DRIVER_STARTS_NOTHING: WorldFault.TWO_DRIVERS,
    Invariant.STALE_DRIVER_SENDS_NOTHING: WorldFault.TWO_DRIVERS,
    Invariant.LATECOMERS: CloudFault.LISTED_LATE,
    Invariant.ONE_SUPERVISOR: WorldFault.DRIVER_KILLED,
}
"""What cannot be without this fault: likewise."""


FOCUSED_ON: dict[Invariant, tuple[Kind, ...]] = {
    Invariant.STALE_DRIVER_SENDS_NOTHING: (WorldFault.TWO_DRIVERS, WorldFault.CUT, CloudFault.PREEMPTED),
    Invariant.LEASE: (WorldFault.ASLEEP, WorldFault.SUPERVISOR_KILLED),
    Invariant.CEILING: (WorldFault.OFFLINE, WorldFault.ASLEEP),
    Invariant.ENDED_RUN_HAS_NO_PROCESS: (WorldFault.USER_ENDS, WorldFault.DRIVER_KILLED),
    Invariant.ONLY_COPY: (WorldFault.DRIVER_KILLED, WorldFault.ASLEEP),
    Invariant.RECOVERY: (CloudFault.PREEMPTED, WorldFault.DRIVER_KILLED),
}
"""What is drawn from for it: among forty kinds the one moment that counts is met seldom."""


def _found(world_type: type[World], invariant: Invariant) -> int:
    """The first seed that finds it. Only this rule is on, so that no other may find the bug first."""
    for seed in range(1, WITHIN_SEEDS):
        schedule = draw(seed, FOCUSED_ON[invariant]) if invariant in FOCUSED_ON else draw(seed)
        if invariant in ON_STANDING_MACHINES and not schedule.standing:
            continue
        if invariant is Invariant.CEILING and schedule.max_cost_usd > 1:
            continue  # a low one is broken sooner
        if invariant in ONLY_AFTER and ONLY_AFTER[invariant] not in {fault.kind for fault in schedule.faults}:
            continue
        world = world_type(schedule, enabled=frozenset({invariant}))
        try:
            if world.play().violation is not None:
                return seed
        except Violation:
            return seed
        finally:
            world.close()
    raise AssertionError(f"{invariant.name} has not found it within {WITHIN_SEEDS} schedules")


class _CreatesAgain(WatchedProvider):
    """Retries the one call that must not be."""

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        super().create(offer, boot, tag)
        return super().create(offer, boot, tag)


class CreatesTwice(World):
    def make_provider(self) -> MachineProvider:
        return _CreatesAgain(self.cloud, self)


class _BelievesTheRelease(WatchedProvider):
    """Takes the answer to `release` for the machine's end."""

    def describe(self, machine: MachineId) -> Machine:
        found = super().describe(machine)
        if found.status.value == "releasing":
            raise MachineGone("it was told to go")
        return found


class BelievesTheRelease(World):
    def make_provider(self) -> MachineProvider:
        return _BelievesTheRelease(self.cloud, self)


class _NeverReleases(WatchedProvider):
    """Failed destroy reported as success."""

    def release(self, machine: MachineId) -> None:
        return None

    def describe(self, machine: MachineId) -> Machine:
        found = super().describe(machine)
        if self.world.ledger.run(RUN).state is State.RELEASING:
            raise MachineGone("it was told to go")
        return found


class NeverReleases(World):
    def make_provider(self) -> MachineProvider:
        return _NeverReleases(self.cloud, self)


class _StartsAnother(SimulatedHost):
    """An agent that does not look whether a supervisor lives; and locks that do not hold."""

    def _start(self, folder: Path, epoch: int) -> None:
        for lock in folder.glob("*.lock"):
            lock.unlink()
        self._computer.start(folder, epoch)
        super()._start(folder, epoch)


class StartsAnother(World):
    def make_host(self, computer: Computer) -> Host:
        return _StartsAnother(computer, self)


class _StopsNothing(SimulatedHost):
    def _stop(self, folder: Path, epoch: int, *, now: bool) -> None: ...


class StopsNothing(World):
    """`down` gives the machine back and leaves the trainer at work."""

    def make_host(self, computer: Computer) -> Host:
        return _StopsNothing(computer, self)


class TrainsAnotherWay(World):
    """Takes the wrong bytes for the model."""

    def drive(self, context: RunContext) -> EndReason:
        reason = super().drive(context)
        if reason is EndReason.DONE:
            (self.root / "models" / RUN / WEIGHTS).write_bytes(b"of another run")
        return reason


class _RecordsFirst(InlineCourier):
    """Puts the checkpoint on record before it is here."""

    def show(self, progress: Progress) -> None:
        for newest in progress.checkpoints[-1:]:
            delivery = self._delivery
            folder = checkpoint_home(delivery.home, newest.step)
            if not folder.exists():
                delivery.ledger.record_artifact(RUN, "checkpoint", newest.step, folder, newest.manifest_sha256)
        super().show(progress)


class RecordsFirst(World):
    def make_courier(self, delivery: Delivery) -> Courier:
        return _RecordsFirst(delivery)


class _ForgetsEpochs(SimulatedHost):
    """An agent that does not compare epochs."""

    def _stop(self, folder: Path, epoch: int, *, now: bool) -> None:
        self._let_in(folder)
        super()._stop(folder, epoch, now=now)

    def _start(self, folder: Path, epoch: int) -> None:
        self._let_in(folder)
        super()._start(folder, epoch)

    def _let_in(self, folder: Path) -> None:
        (folder / "driver-epoch").unlink(missing_ok=True)


class ForgetsEpochs(World):
    def make_host(self, computer: Computer) -> Host:
        return _ForgetsEpochs(computer, self)


class _TakesFromAnybody(SimulatedHost):
    """An agent that unpacks what it is sent, whoever sends it."""

    def _do(self, verb: str, argv: Sequence[str], chunks: Iterable[bytes]) -> bytes:
        if verb == "accept":
            for epoch in self._computer.disk.glob("*/runs/*/driver-epoch"):
                epoch.unlink()
        return super()._do(verb, argv, chunks)


class TakesFromAnybody(World):
    def make_host(self, computer: Computer) -> Host:
        return _TakesFromAnybody(computer, self)


class _FollowsFromTheStart(SimulatedHost):
    def _follow(self, folder: Path, offset: int) -> Iterator[bytes]:
        return super()._follow(folder, 0)


class FollowsFromTheStart(World):
    """Loses the offset whenever a connection breaks."""

    def make_host(self, computer: Computer) -> Host:
        return _FollowsFromTheStart(computer, self)


class _ForgetsIntents(WatchedLedger):
    """The machine's row comes after `create`: a kill between the two leaves a machine that nobody knows."""

    def record_intent(
        self,
        run: RunRecord,
        epoch: int,
        tag: str,
        offer: Offer,
        rescue_usd: float = 0.0,
        first_lease_s: float | None = None,
        traffic_usd: float = 0.0,
    ) -> None:
        return None


class ForgetsIntents(World):
    def make_ledger(self) -> Ledger:
        ledger = _ForgetsIntents(self.home.ledger_file, self.clock)
        ledger.world = self
        return ledger


class _NeverActs(Guard):
    """A timer that silently does nothing."""

    def _decided(self, now_s: float, lease_s: float, limit_s: float | None) -> GuardAction:
        return GuardAction.WAIT


class _NeverStops(Guard):
    """Terminates, whatever lies on the disk."""

    def _decided(self, now_s: float, lease_s: float, limit_s: float | None) -> GuardAction:
        action = super()._decided(now_s, lease_s, limit_s)
        return GuardAction.TERMINATE if action is GuardAction.STOP else action


class GuardNeverActs(World):
    guard_type = _NeverActs


class GuardNeverStops(World):
    guard_type = _NeverStops


class SpendsTenfold(World):
    """Takes the ceiling for another number."""

    def make_spec(self) -> RunSpec:
        spec = super().make_spec()
        limits = spec.limits.model_copy(update={"max_cost_usd": 10 * spec.limits.max_cost_usd})
        return spec.model_copy(update={"limits": limits})


class NeverLooksAgain(World):
    """Believes an empty list for good."""

    def later_command(self) -> None: ...


PLANTED_AT_SEAMS: list[tuple[type[World], Invariant]] = [
    (CreatesTwice, Invariant.INTENT_BEFORE_CREATE),
    (ForgetsIntents, Invariant.INTENT_BEFORE_CREATE),
    (BelievesTheRelease, Invariant.ABSENCE_IS_TRUE),
    (NeverReleases, Invariant.ENDED_RUN_HAS_NO_MACHINE),
    (StartsAnother, Invariant.ONE_SUPERVISOR),
    (StopsNothing, Invariant.ENDED_RUN_HAS_NO_PROCESS),
    (TrainsAnotherWay, Invariant.WEIGHTS),
    (RecordsFirst, Invariant.ARTIFACTS),
    (ForgetsEpochs, Invariant.STALE_DRIVER_STARTS_NOTHING),
    (TakesFromAnybody, Invariant.STALE_DRIVER_SENDS_NOTHING),
    (FollowsFromTheStart, Invariant.MIRROR),
    (GuardNeverActs, Invariant.LEASE),
    (GuardNeverStops, Invariant.ONLY_COPY),
    (SpendsTenfold, Invariant.CEILING),
    (NeverLooksAgain, Invariant.LATECOMERS),
]


@pytest.mark.parametrize(
    ("planted", "invariant"),
    PLANTED_AT_SEAMS,
    ids=lambda value: value.__name__ if isinstance(value, type) else value.name,
)
def test_a_planted_bug_is_found(planted: type[World], invariant: Invariant) -> None:
    _found(planted, invariant)


def _ships_no_checkpoint(context: RunContext, facts: Facts) -> Facts:
    """The newest checkpoint at home stays there."""
    hidden = context.home.root / "hidden"
    checkpoints = context.home.root / wire.CHECKPOINTS_FOLDER
    if checkpoints.exists():
        checkpoints.rename(hidden)
    try:
        return _SHIP(context, facts)
    finally:
        if hidden.exists():
            shutil.rmtree(checkpoints, ignore_errors=True)
            hidden.rename(checkpoints)


def _crashes_at_a_lost_connection(context: RunContext, facts: Facts) -> Facts:
    try:
        return _SHIP(context, facts)
    except Exception as error:
        raise KeyError("a bug in the handling of an error") from error


def _never_gives_back(_context: RunContext, _facts: Facts) -> Facts:
    raise CloudboothError("the machine cannot be given back")


_SHIP = PHASES[Phase.SHIP]


PLANTED_IN_PHASES: list[tuple[Phase, Mutant, Invariant]] = [
    (Phase.SHIP, _ships_no_checkpoint, Invariant.NO_LOST_WORK),
    (Phase.SHIP, _crashes_at_a_lost_connection, Invariant.NO_CRASH),
    (Phase.RELEASE, _never_gives_back, Invariant.IT_ENDS),
]


@pytest.mark.parametrize(
    ("phase", "mutant", "invariant"),
    PLANTED_IN_PHASES,
    ids=lambda value: value.name if isinstance(value, Invariant) else "",
)
def test_a_planted_bug_in_a_phase_is_found(
    monkeypatch: pytest.MonkeyPatch,
    phase: Phase,
    mutant: Mutant,
    invariant: Invariant,
) -> None:
    monkeypatch.setitem(PHASES, phase, mutant)
    _found(World, invariant)


class _SeesNoLoss(WatchedProvider):
    """Reports a lost machine as an account that lacks a right."""

    def describe(self, machine: MachineId) -> Machine:
        try:
            return super().describe(machine)
        except MachineGone:
            if self.world.ledger.run(RUN).state is State.RELEASING:
                raise
            raise AuthRejected("no such machine") from None


class SeesNoLoss(World):
    def make_provider(self) -> MachineProvider:
        return _SeesNoLoss(self.cloud, self)


def test_a_planted_bug_in_recovery_is_found() -> None:
    _found(SeesNoLoss, Invariant.RECOVERY)


def test_every_enabled_rule_has_its_planted_bug() -> None:
    planted = {Invariant.RECOVERY} | {case[-1] for case in (*PLANTED_AT_SEAMS, *PLANTED_IN_PHASES)}
    assert planted == ENABLED
