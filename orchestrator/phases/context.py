"""What a phase gets: the run, its ports, and the way to its machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.clock import Clock
from orchestrator.code_bundle import trainer_code
from orchestrator.courier import BackgroundCourier, Courier, Delivery
from orchestrator.errors import RunConflict, StaleDriver
from orchestrator.home import RunHome
from orchestrator.host import Host, HostUnreachable
from orchestrator.ledger import Ledger, MachineRecord, RunRecord
from orchestrator.lifecycle import Wish
from orchestrator.picture_run import picture_record
from orchestrator.remote_run import RemoteRun, probe, unpack_code
from orchestrator.reporter import Reporter
from orchestrator.spec import RunSpec
from orchestrator.ssh.machine_keys import forget_machine_keys, read_machine_keys
from orchestrator.storage.api import ObjectStore
from providers.api import Access, MachineProvider, SshAccess

Connect = Callable[[Access], Host]


@dataclass(frozen=True)
class RunContext:
    """Everything a phase may touch. `run` is as of the last move; `epoch` is this driver's."""

    run: RunRecord
    epoch: int
    ledger: Ledger
    provider: MachineProvider
    connect: Connect
    clock: Clock
    reporter: Reporter
    home: RunHome
    spec: RunSpec
    machine_stands: bool = False
    """The machine was there before the run and stays: it is never lost, and nothing on it ends by releasing it."""
    new_courier: Callable[[Delivery], Courier] = BackgroundCourier
    store: ObjectStore | None = None
    """Where the machine uploads to; None without `[storage]`."""
    settles_inline: bool = False
    """What a machine has uploaded is put together between two events instead of in a thread, for a world with one."""

    @property
    def output_folder(self) -> Path:
        """Where the finished model goes, or the pictures that were made with one."""
        pictures = picture_record(self.run.plan_json)
        return Path(pictures.folder) if pictures is not None else self.spec.output.folder / self.run.name

    @property
    def folder_name(self) -> str:
        """Of the run on any host: two laptops may give their runs one name, and one laptop a name twice in its life."""
        return f"{self.run.name}-{self.ledger.installation}-{int(self.run.created_at)}"

    def machine(self) -> MachineRecord | None:
        return self.ledger.machine(self.run.name, self.run.attempt)

    def held_machine(self) -> MachineRecord:
        machine = self.machine()
        if machine is None or machine.machine_id is None:
            raise RunConflict(f"run `{self.run.name}` has no machine")
        return machine

    def wish(self) -> Wish:
        """Read anew: another process may have changed it."""
        return self.ledger.run(self.run.name).wish

    def require_driver(self) -> None:
        """Raises StaleDriver when another process has taken the run over: for loops that write nothing."""
        if self.ledger.run(self.run.name).driver_epoch != self.epoch:
            raise StaleDriver(f"another process drives run `{self.run.name}` now", f"cloudbooth attach {self.run.name}")

    def access(self) -> Access | None:
        """Where the machine answers, asked anew at every connect. None while the provider does not know."""
        machine = self.held_machine()
        assert machine.machine_id is not None
        return self.as_ours(machine, self.provider.describe(machine.machine_id).access)

    def as_ours(self, machine: MachineRecord, access: Access | None) -> Access | None:
        """With the keys that were made for the machine, where the provider names none."""
        keys = read_machine_keys(self.home.machine_keys, machine.tag) if isinstance(access, SshAccess) else None
        if keys is None or not isinstance(access, SshAccess):
            return access
        return replace(
            access,
            identity_file=access.identity_file or str(keys.identity_file),
            host_key=access.host_key or keys.host_key,
        )

    def settle_absent(self, tag: str, *, refused: bool = False) -> None:
        """The provider has confirmed that nothing of this intent exists: its keys are of no use any more."""
        self.ledger.record_absent(self.run.name, self.epoch, tag, refused=refused)
        forget_machine_keys(self.home.machine_keys, tag)

    def delivery(self) -> Delivery:
        return Delivery(self.run.name, self.home, self.ledger, self.reporter, self.open_remote)

    def open_remote(self) -> RemoteRun:
        """Connects, makes sure our code is there, and returns the run's agent. The caller closes `remote.host`."""
        access = self.access()
        if access is None:
            raise HostUnreachable("the provider does not know yet where the machine answers")
        return self.remote_at(access)

    def remote_at(self, access: Access) -> RemoteRun:
        """The same for a machine that no run has at present, as one that stands after a run's end."""
        host = self.connect(access)
        try:
            code = trainer_code()
            facts = probe(host, access, code)
            if not facts.has_code:
                unpack_code(host, access, facts, code)
            return RemoteRun(host, access, facts.workdir, code.id, self.run.name, self.folder_name, self.epoch)
        except BaseException:
            host.close()
            raise
