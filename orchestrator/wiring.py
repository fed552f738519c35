"""Composes the parts: the one place where a seam gets its implementation."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

from orchestrator.budget import cost_usd
from orchestrator.clock import Clock, SystemClock
from orchestrator.home import Home
from orchestrator.host import Host
from orchestrator.hosted.bills import JobsAsBills
from orchestrator.hosted.context import JobContext
from orchestrator.keeping import held_as
from orchestrator.ledger import Ledger, RunRecord
from orchestrator.phases.context import Connect, RunContext
from orchestrator.reporter import Reporter
from orchestrator.spec import RunSpec, spec_from_json
from orchestrator.ssh.machine_keys import read_machine_keys
from orchestrator.storage.api import ObjectStore
from orchestrator.storage.open import open_store
from orchestrator.user_config import provider_section
from orchestrator.waiting import waits_of_a_driver
from providers.adopted import AdoptedMachine
from providers.api import Access, Bills, HasStandingMachine, MachineId, MachineProvider, SshAccess, ThisMachine
from providers.combined import CombinedProvider, configured_providers
from providers.errors import CloudboothError
from providers.jobs import JobProvider
from providers.registry import ProviderContext, load_job_provider, load_provider, takes_jobs
from providers.retrying import RetryingJobProvider, RetryingProvider


@dataclass(frozen=True)
class Wiring:
    """What every verb needs."""

    home: Home
    clock: Clock
    ledger: Ledger
    connect: Connect

    def provider(self, spec: RunSpec) -> MachineProvider:
        """Raises CloudboothError for a name that is not installed and for missing options."""
        context = replace(self.provider_context(spec.compute.provider), options=_provider_options(spec))
        provider = load_provider(spec.compute.provider, context)
        if spec.compute.machine is None:
            return provider
        return self._adopted(provider, MachineId(spec.compute.machine), context.state_folder)

    def job_provider(self, spec: RunSpec) -> JobProvider:
        """Of a run that is hosted. Raises CloudboothError as `provider` does."""
        return self.job_provider_named(spec.compute.provider, _provider_options(spec))

    def job_provider_named(self, name: str, options: dict[str, str | int | None] | None = None) -> JobProvider:
        context = replace(self.provider_context(name), options=options or {})
        return load_job_provider(name, context)

    def _adopted(self, provider: MachineProvider, machine: MachineId, state_folder: Path) -> MachineProvider:
        """One that a run of ours keeps is entered with that run's keys; one of the user's with the user's."""
        record = held_as(self.ledger, provider.name, machine)
        keys = read_machine_keys(self.home.run(record.run).machine_keys, record.tag) if record is not None else None
        if keys is None:
            return AdoptedMachine(provider, machine, state_folder)
        return AdoptedMachine(
            provider, machine, state_folder, identity_file=str(keys.identity_file), host_key=keys.host_key
        )

    def provider_context(self, name: str) -> ProviderContext:
        """What a provider gets that no spec has options for."""
        return ProviderContext(
            self.home.providers_folder / name, dict(os.environ), config=provider_section(self.home.config_file, name)
        )

    def provider_named(self, name: str) -> MachineProvider:
        """With the credentials of the environment and no options: for looking around, without a spec.

        Raises CloudboothError for a name that is not installed, and for what is not set up.
        """
        return load_provider(name, self.provider_context(name))

    def local_access(self) -> Access:
        """Of this machine, with the work folder that local runs have: environments and bases are shared with them."""
        provider = self.provider_named("local")
        assert isinstance(provider, HasStandingMachine)
        return provider.access()

    def provider_of(self, run: RunRecord) -> Bills:
        """The run's own. Raises CloudboothError as `provider` does."""
        return self._bills(spec_from_json(run.spec_json))

    def _bills(self, spec: RunSpec) -> Bills:
        return JobsAsBills(self.job_provider(spec)) if is_hosted(spec) else self.provider(spec)

    def every_provider(self) -> tuple[list[tuple[str, Bills]], list[tuple[str, CloudboothError]]]:
        """Every provider, with every set of options, at which this installation may have machines; and those that a
        run has used and that cannot be used now. One that is merely not configured is in neither list.
        """
        able: list[tuple[str, Bills]] = []
        unable: list[tuple[str, CloudboothError]] = []
        specs = [spec_from_json(run.spec_json) for run in self.ledger.runs()]
        distinct = {
            (spec.compute.provider, repr(_provider_options(spec)), spec.compute.machine): spec for spec in specs
        }
        for (name, _, _), spec in distinct.items():
            try:
                able.append((name, self._bills(spec)))
            except CloudboothError as error:
                unable.append((name, error))
        used = {name for name, _, machine in distinct if machine is None}
        configured, _ = configured_providers(self.provider_context)
        return able + [(name, provider) for name, provider in configured.items() if name not in used], unable

    def cost_usd(self, run_name: str) -> float:
        """Of all machines of the run, up to now."""
        return cost_usd(self.ledger.machines(run_name), self.clock.now())

    def job_context(self, run_name: str, epoch: int, reporter: Reporter) -> JobContext:
        """As `context`, of a run that is hosted."""
        run = self.ledger.run(run_name)
        spec = spec_from_json(run.spec_json)
        waits = waits_of_a_driver(self.ledger, self.clock, run_name, epoch)
        return JobContext(
            run=run,
            epoch=epoch,
            ledger=self.ledger,
            jobs=RetryingJobProvider(self.job_provider(spec), waits, reporter.note),
            clock=self.clock,
            reporter=reporter,
            home=self.home.run(run_name),
            spec=spec,
            store=store_of(spec),
        )

    def context(self, run_name: str, epoch: int, reporter: Reporter) -> RunContext:
        """A driver's view of one run; `epoch` is what `Ledger.become_driver` gave, or 0 for one that only reads."""
        run = self.ledger.run(run_name)
        spec = spec_from_json(run.spec_json)
        provider = self.provider(spec)
        if isinstance(provider, CombinedProvider):
            provider.told = reporter.note
        waits = waits_of_a_driver(self.ledger, self.clock, run_name, epoch)
        return RunContext(
            run=run,
            epoch=epoch,
            ledger=self.ledger,
            provider=RetryingProvider(provider, waits, reporter.note),
            machine_stands=isinstance(provider, HasStandingMachine),
            connect=self.connect,
            clock=self.clock,
            reporter=reporter,
            home=self.home.run(run_name),
            spec=spec,
            store=store_of(spec),
        )


def is_hosted(spec: RunSpec) -> bool:
    """Whether the run trains as a hosted job, and rents no machine."""
    return takes_jobs(spec.compute.provider)


def store_of(spec: RunSpec) -> ObjectStore | None:
    """None without `[storage]`. No exchange with the store before its first call."""
    return open_store(spec.storage.url, spec.storage.endpoint_url) if spec.storage.url else None


def _provider_options(spec: RunSpec) -> dict[str, str | int | None]:
    """The provider's own section of the spec."""
    if spec.compute.provider == "ssh" and spec.compute.ssh is not None:
        return vars(spec.compute.ssh.access).copy()
    if spec.compute.provider == "replicate" and spec.compute.replicate is not None:
        return spec.compute.replicate.model_dump()
    return {}


def connect(access: Access) -> Host:
    """No connection is made before the first call."""
    match access:
        case ThisMachine():
            from orchestrator.this_machine import LocalHost

            return LocalHost()
        case SshAccess():
            from orchestrator.ssh.host import SshHost  # paramiko takes half a second: only for those who need it

            return SshHost(access)
    assert_never(access)


def wire_up() -> Wiring:
    """Opens the ledger of this installation."""
    home = Home.of_environment()
    clock = SystemClock()
    return Wiring(home, clock, Ledger(home.ledger_file, clock), connect)
