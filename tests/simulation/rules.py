"""Checks the rules of `tests.simulation.invariants` in a world, whenever what they speak of may have changed."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.fetch import holds
from orchestrator.lifecycle import MAX_RESTARTS, EndReason, State
from orchestrator.phases.provision import SETTLE_AGE_S
from providers.api import MachineId
from providers.testing.rentals import Rental
from remote_trainer import run_folder as folders
from remote_trainer import supervisor, wire
from remote_trainer.lease import BEAT_STALE_S
from tests.simulation import trainer
from tests.simulation.computer import Computer
from tests.simulation.guard import FORGOTTEN_S, Guard
from tests.simulation.invariants import Invariant, Violation
from tests.simulation.kinds import LEFT_TO_THE_PRODUCT, WorldFault

if TYPE_CHECKING:
    from tests.simulation.world import World

REST_S = 3600.0
LATER_S, LOOKS_LATER = 5 * 3600.0, 4
"""Somebody types a command every five hours, for a day."""
TICK_S = 60.0
MODEL = math.inf
"""Worth more than a checkpoint of any step."""
LONGEST_LEASE_S = 3600.0 + 1000.0
"""`limits.wait_for_laptop_minutes`, the longest of all leases, and what an outage of the service may add."""
GUARD_MISSED_S = BEAT_STALE_S + 2 * supervisor.HEARTBEAT_S + 5.0
"""A dead guard is noticed by its stale beat, at a beat of the supervisor."""


class Rules:
    """Every check raises Violation for a rule that is enabled and broken."""

    def __init__(self, world: World, enabled: frozenset[Invariant]) -> None:
        self._world, self.enabled = world, enabled
        self._created_tags: set[str] = set()
        self._uploaded = 0.0
        """The newest checkpoint that a machine said is verified in the store, or `MODEL`."""
        self._uploaded_step = 0
        self._refusals = 0

    def violate(self, invariant: Invariant, detail: str) -> None:
        if invariant in self.enabled:
            raise Violation(invariant, detail)

    # ---- while it runs ---------------------------------------------------------------------------------------------

    def before_create(self, tag: str) -> None:
        known = [machine.tag for machine in self._world.ledger.machines(self._world.run_name)]
        if tag in self._created_tags or tag not in known:
            self.violate(Invariant.INTENT_BEFORE_CREATE, f"{tag}; intents {known}")
        self._created_tags.add(tag)

    def after_transaction(self) -> None:
        world = self._world
        living = {rental.tag for rental in world.cloud.living() if not self._came_late(rental)}
        if not living and world.standing is None:
            return
        called_absent = {m.tag for m in world.ledger.machines(world.run_name) if m.absent_at is not None} & living
        if called_absent:
            self.violate(Invariant.ABSENCE_IS_TRUE, f"{sorted(called_absent)} are on record as absent and live")
        if world.run().state is State.ENDED:
            if (
                called_absent
            ):  # what is on record as open came late and is about to be given back; `at_rest` looks again
                self.violate(Invariant.ENDED_RUN_HAS_NO_MACHINE, f"{sorted(called_absent)}")
            self._nothing_runs()

    def after_event(self) -> None:
        """Of the clock."""
        for computer in self._world.computers.values():
            if len(computer.supervisors) > 1 and (len(computer.living()) > 1 or len(computer.stages()) > 1):
                self.violate(
                    Invariant.ONE_SUPERVISOR,
                    f"{len(computer.living())} supervisors and {len(computer.stages())} stages on {computer.name}",
                )
            if computer.guard is not None and computer.up:
                self._lease(computer, computer.guard)

    def _lease(self, computer: Computer, guard: Guard) -> None:
        now_s, living = self._world.clock.monotonic(), computer.living()
        if living:
            computer.cared_for_s = now_s
            since_s = max(guard.dead_since_s, living[0].began_s)
            if not guard.alive and now_s - since_s > GUARD_MISSED_S:
                self.violate(Invariant.LEASE, f"the guard of {computer.name} has been dead for {now_s - since_s:.0f} s")
            return
        rental = self._world.cloud.rentals[MachineId(computer.name)]
        # One that cannot stop keeps an only copy until its money is gone: that is the ceiling's to end.
        can_end = self._world.schedule.abilities.machines_stop_themselves and not rental.key_refused
        alone_s = now_s - computer.cared_for_s
        if guard.alive and can_end and not rental.released and alone_s > LONGEST_LEASE_S:
            self.violate(Invariant.LEASE, f"{computer.name} has run for {alone_s:.0f} s with nobody in charge")

    # ---- when a machine is given back ------------------------------------------------------------------------------

    def before_own_end(self, computer: Computer) -> None:
        """A guard is about to terminate its machine."""
        here, elsewhere = _worth(computer), self._worth_elsewhere()
        if here > elsewhere and self._world.schedule.abilities.machines_stop_themselves:
            self.violate(Invariant.ONLY_COPY, f"{computer.name} holds {here}, elsewhere is {elsewhere}")

    def before_release(self, machine: MachineId) -> None:
        """A laptop gives it back: one that runs, and has a model that nobody else has, only when told to. That it does
        not answer this laptop is no reason.
        """
        computer = self._world.computers.get(machine)
        if computer is None or not computer.alive or not computer.up or self._world.run().wish.ends_now:
            return
        if _worth(computer) == MODEL and self._worth_elsewhere() < MODEL:
            self.violate(Invariant.ONLY_COPY, f"{machine} holds the model, and nobody asked for its end")

    def _worth_elsewhere(self) -> float:
        artifacts = self._world.ledger.artifacts(self._world.run_name)
        return max([self._uploaded, *(MODEL if a.kind == "output" else a.step for a in artifacts)])

    def uploaded(self, computer: Computer, event: wire.Uploaded) -> None:
        """A machine says that something is whole in the store."""
        for run in computer.disk.glob("*/runs/[!.]*"):
            output = folders.committed(run, wire.OUTPUT_FOLDER)
            if output is not None and output.manifest_sha256 == event.manifest_sha256:
                self._uploaded = MODEL
                return
        self._uploaded_step = max(event.step, self._uploaded_step)
        self._uploaded = max(event.step, self._uploaded)

    def after_call(self, computer: Computer, run_folder: str, verb: str) -> None:
        """A call of the driver at work has changed something on a computer."""
        own = self._world.drivers[-1].epoch
        highest = computer.epochs[run_folder] = max(own, computer.epochs.get(run_folder, 0))
        self.after_event()
        if own < self._world.run().driver_epoch and own < highest:
            sends = verb == "accept"
            rule = Invariant.STALE_DRIVER_SENDS_NOTHING if sends else Invariant.STALE_DRIVER_STARTS_NOTHING
            self.violate(rule, f"`{verb}` by epoch {own} on {computer.name}, which has seen {highest}")

    def trainer_started(self, step: int) -> None:
        artifacts = self._world.ledger.artifacts(self._world.run_name)
        home = [a.step for a in artifacts if a.kind == "checkpoint" and Path(a.folder).exists()]
        if home and step < max(home):
            self.violate(Invariant.NO_LOST_WORK, f"from step {step}, while step {max(home)} had come home")
        refused, self._refusals = self._refused_since(), self._refusals_now()
        if step < self._uploaded_step and not refused:
            self.violate(Invariant.NO_LOST_WORK, f"from step {step}, while step {self._uploaded_step} was in the store")

    def _refused_since(self) -> bool:
        """Whether the laptop has found the store out of reach since training began last: it goes on without then."""
        return self._refusals_now() > self._refusals

    def _refusals_now(self) -> int:
        return self._world.store.refusals if self._world.store is not None else 0

    # ---- after every driver ----------------------------------------------------------------------------------------

    def at_home(self) -> None:
        """What lies on the laptop's disk."""
        self._artifacts_are_whole()
        self._mirrors_agree()
        run = self._world.run()
        if run.state is State.ENDED and run.reason is EndReason.DONE:
            expected = trainer.weights(trainer.state_after(self._world.schedule.training.steps, run.name))
            model = self._world.model_folder / trainer.WEIGHTS
            if not model.exists() or model.read_bytes() != expected:
                self.violate(Invariant.WEIGHTS, "the model is missing or another one")

    def _artifacts_are_whole(self) -> None:
        newest_checkpoint: Path | None = None
        for artifact in self._world.ledger.artifacts(self._world.run_name):
            folder = Path(artifact.folder)
            if artifact.kind == "checkpoint":
                newest_checkpoint = folder
                if not folder.exists():
                    continue  # only the newest are kept
            if not _is_whole(folder, artifact.manifest_sha256):
                self.violate(Invariant.ARTIFACTS, f"{artifact.kind} of step {artifact.step} is damaged or missing")
        if newest_checkpoint is not None and not newest_checkpoint.exists():
            self.violate(Invariant.ARTIFACTS, f"the newest checkpoint is missing: {newest_checkpoint.name}")

    def _mirrors_agree(self) -> None:
        logs: dict[str, bytes] = {}
        for computer in self._world.computers.values():
            logs |= computer.every_log()
        for mirror in self._world.home.run(self._world.run_name).root.glob("events-*.jsonl"):
            incarnation = mirror.stem.removeprefix("events-")
            here = mirror.read_bytes()
            here = here[: here.rfind(b"\n") + 1]
            if not logs.get(incarnation, b"").startswith(here):
                self.violate(Invariant.MIRROR, f"{mirror.name} differs from the host's log")

    # ---- at the end ------------------------------------------------------------------------------------------------

    def at_rest(self) -> None:
        world = self._world
        world.clock.sleep(REST_S)
        living = [rental.tag for rental in world.cloud.living() if not self._came_late(rental)]
        if living:
            self.violate(Invariant.ENDED_RUN_HAS_NO_MACHINE, f"an hour after the end: {living}")
        self._nothing_runs()
        self.at_home()
        for _ in range(LOOKS_LATER):
            world.clock.sleep(LATER_S)
            world.later_command()
        world.clock.sleep(LATER_S)
        if living := [rental.tag for rental in world.cloud.living()]:
            self.violate(Invariant.LATECOMERS, f"{living}")
        if shown := [machine.tag for machine in world.ledger.open_machines()]:
            self.violate(Invariant.LATECOMERS, f"still shown: {shown}")
        self.ceiling_holds()
        if world.helped and self._is_left_to_the_product():
            self.violate(Invariant.RECOVERY, "the user had to say more than `attach`")

    def _is_left_to_the_product(self) -> bool:
        fired, world = self._world.misfortune.fired, self._world
        if world.schedule.standing or world.schedule.training.deadline_s is not None or world.raised:
            return False
        return set(fired) <= LEFT_TO_THE_PRODUCT and fired[WorldFault.SUPERVISOR_KILLED] < MAX_RESTARTS

    def ceiling_holds(self) -> None:
        """Whenever it is about to change, and at the end: what is spent only grows. One's own machine costs nothing."""
        cloud = self._world.cloud
        if self._world.standing is not None or not all(map(self._can_end_itself, cloud.rentals.values())):
            return
        dearest_usd = max((rental.price_per_hour_usd for rental in cloud.rentals.values()), default=0.0)
        unseen_usd = sum(cloud.spent_usd(rental.tag) for rental in cloud.rentals.values() if self._came_late(rental))
        spent_usd = cloud.spent_usd() - unseen_usd  # what no list showed for minutes is not counted: the docs say so
        forgiven_s = TICK_S + FORGOTTEN_S * self._world.misfortune.fired[WorldFault.CONTAINER_RESTARTED]
        if spent_usd > self._world.max_cost_usd + forgiven_s * dearest_usd / 3600:
            self.violate(Invariant.CEILING, f"${spent_usd:.2f} of ${self._world.max_cost_usd:.2f}")

    def _can_end_itself(self, rental: Rental) -> bool:
        """Otherwise it bills until a laptop is there again, which may sleep: the plan says so."""
        computer = self._world.computers.get(rental.id)
        if computer is None or computer.guard is None or rental.key_refused:
            return self._came_late(rental)
        return not computer.lost_its_guard

    def _came_late(self, rental: Rental) -> bool:
        """Its create was never answered and every list was empty for minutes: LATECOMERS is about these."""
        known = {machine.tag: machine for machine in self._world.ledger.machines(self._world.run_name)}
        late = rental.listed_from_s > rental.created_s + SETTLE_AGE_S
        return late or (rental.listed_from_s > rental.created_s and known[rental.tag].machine_id is None)

    def _nothing_runs(self) -> None:
        standing = self._world.standing
        if standing is not None and (standing.living() or standing.stages()):
            self.violate(Invariant.ENDED_RUN_HAS_NO_PROCESS, f"{len(standing.living())} supervisors live")


def _worth(computer: Computer) -> float:
    """The step of the newest checkpoint on its disk, or `MODEL`; 0 for a disk that is no more."""
    newest = 0.0
    for run in computer.disk.glob("*/runs/[!.]*") if computer.alive else ():
        if folders.committed(run, wire.OUTPUT_FOLDER) is not None:
            return MODEL
        newest = max([newest, *(checkpoint.step for checkpoint in folders.committed_checkpoints(run))])
    return newest


def _is_whole(folder: Path, manifest_sha256: str) -> bool:
    try:
        raw = (folder / wire.MANIFEST_NAME).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(raw).hexdigest() == manifest_sha256 and holds(folder, wire.Manifest.from_bytes(raw))
