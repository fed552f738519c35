"""The inside of a simulated machine: a disk, and processes that come and go.

The disk is a real folder, and all of `remote_trainer` that only reads and writes files works on it as it is: the
agent's answers, the locks, the event log, the commit of a checkpoint.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Protocol

from providers.testing.virtual_clock import SkewedClock, VirtualClock
from remote_trainer import run_folder as folders
from remote_trainer import wire
from remote_trainer.deadline import Clocks
from remote_trainer.upload_grant import drop_grant
from tests.simulation.guard import Guard
from tests.simulation.schedule import Occasion, Training
from tests.simulation.store import SimulatedStore
from tests.simulation.supervisor import Supervisor
from tests.simulation.trainer import Stage


class Observer(Protocol):
    """What a world wants to know of its computers."""

    def trainer_started(self, computer: Computer, step: int) -> None: ...

    def said(self, computer: Computer, event: wire.Event) -> None: ...

    def happened(self, computer: Computer, occasion: Occasion) -> None: ...

    def holds_training(self, steps_left: int) -> bool:
        """Whether the next step is to take longer, for what is still to happen meanwhile."""
        ...


class Computer:
    """A machine with a disk. It lives until `die`; its processes may come and go."""

    def __init__(
        self,
        name: str,
        disk: Path,
        clock: VirtualClock,
        training: Training,
        observer: Observer,
        has_gpu: bool = True,
        store: SimulatedStore | None = None,
        slow: float = 1.0,
    ) -> None:
        self.name, self.disk, self.clock, self.training, self.observer = name, disk, clock, training, observer
        self.date = SkewedClock(clock)
        self.has_gpu, self.store = has_gpu, store
        self.step_s = slow * training.step_s
        self.chunk_s = training.chunk_s
        self.lent: set[Path] = set()
        """The run folders that something was lent to, which is kept in memory and not on this disk."""
        self.alive = True
        """Its disk exists."""
        self.up = True
        """It is not stopped."""
        self.guard: Guard | None = None
        self.lost_its_guard = False
        """It was killed, or the whole host died while it was still billed."""
        self.cared_for_s = clock.monotonic()
        """When a supervisor lived or a laptop called, last."""
        self.unreachable_until_s = 0.0
        self.disk_full_until_s = 0.0
        self.hangs = False
        """The trainer stops making steps."""
        self.boot = 1
        self._booted_s = clock.monotonic()
        self.clocks = Clocks(lambda: self.boot_clock_s, lambda: str(self.boot), clock.monotonic)
        self.next_pid = 100
        self.connections = 1
        """Goes up when every connection to it breaks."""
        self.supervisors: list[Supervisor] = []
        self.logs: dict[str, bytes] = {}
        """What was in the event log of every incarnation when its folder was removed."""
        self.epochs: dict[str, int] = {}
        """Run folder → the highest driver epoch that ever called, whatever the disk remembers."""
        disk.mkdir(parents=True)

    @property
    def reachable(self) -> bool:
        return self.alive and self.up and self.clock.monotonic() >= self.unreachable_until_s

    @property
    def boot_clock_s(self) -> float:
        """As `/proc/uptime`: ten minutes ahead, since no clock of a machine is at zero when ours starts."""
        return self.clock.monotonic() - self._booted_s + 600.0

    @property
    def disk_is_full(self) -> bool:
        return self.clock.monotonic() < self.disk_full_until_s

    def living(self) -> list[Supervisor]:
        return [process for process in self.supervisors if process.alive]

    def stages(self) -> list[Stage]:
        return [process.stage for process in self.supervisors if process.stage is not None and process.stage.alive]

    def supervisor_of(self, run_folder: Path) -> Supervisor | None:
        return next((process for process in self.living() if process.folder == run_folder), None)

    def start(self, run_folder: Path, epoch: int) -> None:
        """As `supervise`: nothing happens when another holds the lock."""
        self.next_pid += 1
        process = Supervisor(self, run_folder, epoch, self.next_pid)
        self.supervisors.append(process)
        process.begin()

    def kill_all(self) -> None:
        for process in self.supervisors:
            process.kill(leash_s=0.0)

    def restart(self, pause_s: float) -> None:
        """Every process dies, the disk stays, and what starts with the machine starts again, on the host's old boot."""
        self.stop()
        for run_folder in self.lent:
            drop_grant(run_folder)
        self.unreachable_until_s = self.clock.monotonic() + pause_s
        self._begin_again()

    def stop(self) -> None:
        """As a provider stops it: the disk stays."""
        self.kill_all()
        if self.guard is not None:
            self.guard.kill()
        self.up = False
        self.connections += 1

    def come_up(self) -> None:
        self.boot += 1
        self._booted_s = self.clock.monotonic()
        self._begin_again()

    def _begin_again(self) -> None:
        self.up = True
        self.cared_for_s = self.clock.monotonic()
        if self.guard is not None:
            self.guard.begin()

    def start_guard_again(self) -> None:
        if self.guard is None:
            raise FileNotFoundError("there is no script of a guard")
        self.guard.begin(again=True)

    def die(self) -> None:
        self.stop()
        self.alive = False

    def write_or_fail(self) -> None:
        """Raises the error of a full disk."""
        if self.disk_is_full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def name_incarnation(self, run_folder: Path) -> None:
        """A new folder's log gets its name from us: the product's would be random."""
        if run_folder.exists() and not (run_folder / folders.INCARNATION_FILE).exists():
            self.next_pid += 1
            (run_folder / folders.INCARNATION_FILE).write_text(f"{self.name}-{self.next_pid}")

    def keep_log(self, run_folder: Path) -> None:
        """Before the folder is removed: mirrors are compared with it at the end."""
        name, log = run_folder / folders.INCARNATION_FILE, run_folder / wire.EVENTS_FILE
        if name.exists() and log.exists():
            self.logs[name.read_text()] = log.read_bytes()

    def every_log(self) -> dict[str, bytes]:
        for name in self.disk.glob(f"*/runs/*/{folders.INCARNATION_FILE}"):
            self.keep_log(name.parent)
        return self.logs


def forget_disk(computer: Computer) -> None:
    """After a schedule. The locks of what still lives are let go with it."""
    computer.stop()
    for run_folder in computer.lent:
        drop_grant(run_folder)
    shutil.rmtree(computer.disk, ignore_errors=True)
