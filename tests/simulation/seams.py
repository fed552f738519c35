"""The seams of a simulated laptop: ledger, cloud, clock and reporter, with a passage before and after each call."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.ledger import Ledger
from orchestrator.lifecycle import State
from orchestrator.progress import Progress
from orchestrator.storage.api import StoredObject
from providers.api import BootPlan, GpuRequest, Machine, MachineId, Market, Offer, SelfRelease
from providers.errors import Transient
from providers.testing.simulated_cloud import SimulatedCloud
from remote_trainer import wire
from tests.simulation.store import SimulatedStore

if TYPE_CHECKING:
    from tests.simulation.world import World


class WatchedLedger(Ledger):
    """The real one, with a passage before and after every transaction."""

    world: World | None = None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self.world is None or not self.world.drivers:
            with super()._transaction():
                yield
            return
        self.world.enter("ledger")
        with super()._transaction():
            self._require_room()
            yield
        self.world.rules.after_transaction()
        self.world.leave("ledger")

    def _require_room(self) -> None:
        assert self.world is not None
        try:
            self.world.require_room()
        except OSError:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error from None


@dataclass
class WatchedProvider:
    """The cloud, behind passages."""

    cloud: SimulatedCloud
    world: World
    name: str = "simulated"
    markets: frozenset[Market] = frozenset(Market)

    def _online(self) -> SimulatedCloud:
        if self.world.offline:
            raise Transient("this computer has no network")
        return self.cloud

    def offers(self, want: GpuRequest) -> Sequence[Offer]:
        with self.world.passage("offers"):
            return self._online().offers(want)

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        with self.world.passage("create"):
            self.world.rules.before_create(tag)
            return self._online().create(offer, boot, tag)

    def describe(self, machine: MachineId) -> Machine:
        with self.world.passage("describe"):
            return self._online().describe(machine)

    def list(self, prefix: str) -> Sequence[Machine]:
        with self.world.passage("list"):
            return self._online().list(prefix)

    def release(self, machine: MachineId) -> None:
        with self.world.passage("release"):
            self.world.rules.before_release(machine)
            self._online().release(machine)

    def self_release(self, offer: Offer) -> SelfRelease | None:
        return self.cloud.self_release(offer)

    def logs(self, machine: MachineId) -> str:
        with self.world.passage("logs"):
            return self._online().logs(machine)

    def billed_usd(self, machine: MachineId) -> float | None:
        with self.world.passage("billed"):
            return self._online().billed_usd(machine)


class WatchedStopper(WatchedProvider):
    """The same, of a provider that can stop machines."""

    stopped_disk_may_vanish = True

    def stop(self, machine: MachineId) -> None:
        with self.world.passage("stop"):
            self._online().stop(machine)

    def start(self, machine: MachineId) -> None:
        with self.world.passage("start"):
            self._online().start(machine)


@dataclass(frozen=True)
class WatchedClock:
    """The laptop's, behind passages: a driver may die or be overtaken while it waits."""

    world: World

    def now(self) -> float:
        return self.world.clock.now()

    def monotonic(self) -> float:
        return self.world.clock.monotonic()

    def sleep(self, seconds: float) -> None:
        with self.world.passage("sleep"):
            self.world.clock.sleep(seconds)


class WatchedStore(SimulatedStore):
    """The store, behind passages. What a thread asks passes none: there is one driver at a time, and it waits then."""

    def __init__(self, world: World) -> None:
        super().__init__(world.clock)
        self._world, self._thread = world, threading.get_ident()

    def put(self, key: str, content: bytes, *, if_absent: bool = False) -> StoredObject:
        with self._passage():
            return super().put(key, content, if_absent=if_absent)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        with self._passage():
            return super().get(key, offset, length)

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        with self._passage():
            return super().objects(prefix)

    def delete(self, keys: Sequence[str]) -> None:
        with self._passage():
            super().delete(keys)

    def _passage(self) -> AbstractContextManager[None]:
        return self._world.passage("store") if threading.get_ident() == self._thread else nullcontext()


class AbsentCourier:
    """Brings nothing while training goes on, as over a link that is too slow."""

    def __enter__(self) -> AbsentCourier:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, progress: Progress) -> None: ...


@dataclass(frozen=True)
class ToldReporter:
    """A reporter that writes into the trace."""

    world: World

    def moved(self, state: State, why: str) -> None:
        self.world.note(f"→ {state.value}: {why}")

    def event(self, envelope: wire.Envelope, progress: Progress) -> None: ...

    def transfer(self, what: str, done_bytes: int, total_bytes: int) -> None: ...

    def arrived(self, what: str, path: str) -> None:
        self.world.note(f"{what} arrived: {Path(path).name}")

    def note(self, text: str) -> None:
        self.world.told(text)
