"""What a provider is: the Protocols and the data that cross them.

A `MachineProvider` rents machines and gives them back. It never opens SSH and never learns what a machine is for; it
may be written by third parties, who register it under the entry-point group `cloudbooth.providers` and test it with
`providers.testing.contract`. A `JobProvider` rents no machine: it takes a hosted training job and hands out its result
(`providers.jobs` has its data); its group is `cloudbooth.job_providers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NewType, Protocol, runtime_checkable

MachineId = NewType("MachineId", str)


class Market(Enum):
    ON_DEMAND = "on-demand"
    SPOT = "spot"


class MachineStatus(Enum):
    """What the provider says. Whether the machine can be used is settled by an SSH banner, not by this word."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    """Not running, disk kept: still billed by most providers."""
    RELEASING = "releasing"
    FAILED = "failed"
    """It will never come up; `Machine.status_text` says why. Billed until it is released."""
    UNKNOWN = "unknown"
    """A status word this adapter does not know; the word stands in `Machine.status_text`."""


@dataclass(frozen=True)
class GpuRequest:
    """What the run needs. Empty `gpus`: anything with enough memory."""

    gpus: tuple[str, ...] = ()
    min_vram_gb: float = 0.0
    disk_gb: float = 0.0
    market: Market = Market.ON_DEMAND
    max_price_per_hour_usd: float | None = None
    secure_only: bool = False
    gpu_count: int = 1
    volume: str = ""
    """Id of a network volume (`HasVolumes`): offers only where it can be mounted. Empty: the machine's own disk."""


@dataclass(frozen=True)
class Offer:
    """Something that can be rented now.

    `id` means something to its provider only, but for this: numbers behind slashes at its end (`4711/0.22`) are terms
    that may differ at the next look, and what stands before them is the same host or kind of machine.
    """

    provider: str
    id: str
    gpu: str
    gpu_count: int
    vram_gb: float
    market: Market
    price_per_hour_usd: float
    region: str = ""
    stock: str = ""
    """As stated by the provider, for display."""
    secure: bool = True
    stopped_disk_per_day_usd: float = 0.0
    """What the disk of the request costs a day while the machine is stopped and keeps it."""
    upload_usd_per_gb: float = 0.0
    """Traffic out of the machine."""
    download_usd_per_gb: float = 0.0
    """Traffic into the machine."""
    download_mbps: float | None = None
    """Megabits a second into the machine, as the provider measured them; None: unknown."""
    reliability: float | None = None
    """Between 0 and 1, as stated by the provider: the chance that the machine stays up."""
    workdir: str = "~/cloudbooth"
    """The work folder that the `SshAccess` of its machine is going to state: the guard keeps its state there from the
    machine's boot on, long before anybody knows an address."""


@dataclass(frozen=True)
class Rendezvous:
    """Where machines that train together meet. A machine that has it in its environment needs no other word of it."""

    nodes: int
    node_rank: int
    """0 … nodes - 1."""
    address: str
    """Of the machine of node rank 0, as all of them reach it."""
    port: int = 29500
    """A free one of that machine."""

    @property
    def environment(self) -> Mapping[str, str]:
        """By the names under which `torchrun` takes its own flags, and our trainer as well."""
        return {
            "PET_NNODES": str(self.nodes), "PET_NODE_RANK": str(self.node_rank), "PET_MASTER_ADDR": self.address,
            "PET_MASTER_PORT": str(self.port),
        }  # fmt: skip


@dataclass(frozen=True)
class BootPlan:
    """How a machine is to come up. Providers that rent nothing ignore it."""

    image: str = ""
    """Empty: the provider's own choice of an image with sshd and a CUDA build of torch."""
    start_command: str = ""
    """POSIX shell run by the machine at every boot, as soon as possible and before any login. It returns within
    seconds, having put into the background what is to stay; the image's own start (its sshd) goes on after it."""
    env: Mapping[str, str] = field(default_factory=dict)
    authorized_key: str = ""
    """OpenSSH public key line of this run."""
    disk_gb: float = 0.0
    volume: str = ""
    """Id of a network volume (`HasVolumes`), mounted where the work folder lies, in place of the machine's own volume.
    The offer answers a request that named it."""


@dataclass(frozen=True)
class SshAccess:
    """Where a machine answers SSH. May change between two `describe` calls: read it again at every connect."""

    host: str
    """A host name, an address, or an alias of the user's ssh_config."""
    port: int | None = None
    """None: ssh_config's, else 22."""
    user: str | None = None
    identity_file: str | None = None
    python: str = "python3"
    workdir: str = "~/cloudbooth"
    host_key: str | None = None
    """The OpenSSH public key line the host must show; None: the user's known_hosts decides."""


@dataclass(frozen=True)
class ThisMachine:
    """The machine is the one we run on."""

    python: str
    workdir: str


Access = SshAccess | ThisMachine


@dataclass(frozen=True)
class Machine:
    id: MachineId
    tag: str
    status: MachineStatus
    status_text: str
    """The provider's own word."""
    price_per_hour_usd: float
    """What it bills now, everything included."""
    access: Access | None
    """None while the provider does not know yet where it can be reached."""


@dataclass(frozen=True)
class MachineCall:
    """One HTTP request that a machine makes about itself.

    `${NAME}` in the URL, a header's value or the body stands for an environment variable of the machine and is filled
    in there: the key that can do no more than this is the machine's own, and never passes through the laptop.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""


@dataclass(frozen=True)
class SelfRelease:
    """How a machine gives itself back while nobody else can."""

    terminate: MachineCall
    """Ends machine and disk. Any 2xx, 404 or 410 is success."""
    probe: MachineCall
    """Harmless, twice is safe, and allowed only to a key that may also terminate: a 2xx answer proves self-release."""
    stop: MachineCall | None = None
    """Ends the GPU's billing and keeps what the work folder holds; None where that cannot be had. With a network volume
    it is what `terminate` is: the volume outlives the machine."""


@runtime_checkable
class Bills(Protocol):
    """What may cost money can be found, looked at and ended: all that it takes to settle a lost answer, to give back
    what nobody waits for, and to find orphans. The methods are those of `MachineProvider`.
    """

    name: str

    def describe(self, machine: MachineId) -> Machine: ...

    def list(self, prefix: str) -> Sequence[Machine]: ...

    def release(self, machine: MachineId) -> None: ...


@runtime_checkable
class MachineProvider(Protocol):
    """Rents machines. Every method is one bounded exchange with the service: no sleeping, no waiting for states.

    All raise AuthRejected, QuotaExceeded and Transient as the service answers; further errors stand at the method.
    """

    name: str
    markets: frozenset[Market]
    """Asking for another market raises UnsupportedMarket, with a hint that names what works."""

    def offers(self, want: GpuRequest) -> Sequence[Offer]:
        """What could be rented now and fits `want`, cheapest first. Empty when there is nothing."""
        ...

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        """Rents `offer` under `tag`; returns in seconds, long before the machine answers.

        Called once per intent and never retried by anyone. Raises NoCapacity when certainly nothing was rented, and
        Indeterminate when that is not certain; `list(tag)` then tells.
        """
        ...

    def describe(self, machine: MachineId) -> Machine:
        """One look at one machine. Raises MachineGone when the service says that it does not exist."""
        ...

    def list(self, prefix: str) -> Sequence[Machine]:
        """Every machine of the account whose tag starts with `prefix`, all pages."""
        ...

    def release(self, machine: MachineId) -> None:
        """Gives the machine back. Already gone is success; twice is safe. Absence is confirmed by later looks."""
        ...

    def self_release(self, offer: Offer) -> SelfRelease | None:
        """What a machine of this offer may call to give itself back; None when there is no such call. No exchange."""
        ...


@runtime_checkable
class HasStandingMachine(Protocol):
    """The machine exists before it is taken, so that it can be looked at free of charge."""

    def access(self) -> Access:
        """Where it answers. No exchange with anybody."""
        ...


@runtime_checkable
class HasStop(Protocol):
    """A stopped machine keeps its disk: one that stopped itself with the only copy of a model can come back."""

    stopped_disk_may_vanish: bool
    """The provider promises nothing about a stopped disk, or gives its host away: the plan then says so."""

    def stop(self, machine: MachineId) -> None:
        """Ends the GPU's billing, keeps the disk. Already stopped is success. Raises MachineGone."""
        ...

    def start(self, machine: MachineId) -> None:
        """Asks for a stopped machine to run again; later looks tell whether it does. Already running is success.

        Raises NoCapacity when its host has no free GPU now (nothing is left queued then), and MachineGone.
        """
        ...


@dataclass(frozen=True)
class Volume:
    """A network volume of the account: a disk that no machine owns, billed from its making to its deletion."""

    id: str
    name: str
    region: str
    """The only place where machines can have it."""
    size_gb: float
    usd_per_month: float | None
    """Whether or not a machine has it; None: not known."""
    mounted_by: tuple[str, ...] = ()
    """Tags of the machines that have it now."""


@runtime_checkable
class HasVolumes(Protocol):
    """The provider rents disks apart from machines: `GpuRequest.volume` and `BootPlan.volume` name one."""

    def volumes(self) -> Sequence[Volume]:
        """Those of the account. They are made and deleted by their owner, never from here."""
        ...


@runtime_checkable
class HasLogs(Protocol):
    def logs(self, machine: MachineId) -> str:
        """What the provider shows of the machine's boot and container, newest last; empty when there is nothing yet.

        Raises MachineGone.
        """
        ...


@runtime_checkable
class HasBilling(Protocol):
    def billed_usd(self, machine: MachineId) -> float | None:
        """What the provider charges for the machine so far, disks included, also after its end; None: not known yet."""
        ...
