"""The network volume with a run's work folder: found before anything is planned, and had by one run at a time.

Files on it would bear two runs at once, since every one of them is written under a lock of its own; but these are locks
of a network file system, and what they are worth between two machines is the service's secret. So whoever comes second
waits. Machines of others than cloudbooth are their owner's affair.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import RunConflict, UsageError
from orchestrator.orphans import ANY_TAG_PREFIX
from orchestrator.spec import RunSpec
from providers.api import HasVolumes, MachineProvider, Volume
from providers.errors import NoCapacity


def planned_volume(provider: MachineProvider, spec: RunSpec) -> Volume | None:
    """What `compute.volume` names; None without it. One look at the provider.

    Raises UsageError for a provider that has no volumes and for an id that is not among them, and RunConflict while
    another run has it.
    """
    wanted = spec.compute.volume
    if not wanted:
        return None
    if not isinstance(provider, HasVolumes):
        raise UsageError(
            f"{provider.name} has no network volumes for compute.volume = {wanted!r}",
            "leave compute.volume out, or rent where they exist: `--provider runpod`",
        )
    volumes = provider.volumes()
    found = _by_id(volumes, wanted)
    if found is None:
        has = ", ".join(f"{volume.id} ({words(volume)})" for volume in volumes)
        raise UsageError(
            f"{provider.name} has no network volume {wanted!r}; "
            + (f"the account has {has}" if has else "it has none"),
            f"--set compute.volume={volumes[0].id}"
            if volumes
            else "make one in the provider's console, or leave it out",
        )
    holder = holder_of(found)
    if holder:
        raise RunConflict(
            f"the volume {wanted} is in use by the machine {holder}",
            "one run at a time has a volume: wait for the end of that one (`cloudbooth ps`), or name another volume",
        )
    return found


def require_free(provider: MachineProvider, volume_id: str) -> None:
    """Before a machine is rented with it. Raises NoCapacity while another has it, or when it is there no more."""
    assert isinstance(provider, HasVolumes)
    volume = _by_id(provider.volumes(), volume_id)
    if volume is None:
        raise NoCapacity(f"the volume {volume_id} is there no more", "`cloudbooth launch` again, with another volume")
    holder = holder_of(volume)
    if holder:
        raise NoCapacity(f"the volume {volume_id} is in use by the machine {holder}", "wait for the end of its run")


def holder_of(volume: Volume) -> str:
    """The tag of the machine of a run, of this installation or another, that has it now; empty when none does."""
    return next((tag for tag in volume.mounted_by if tag.startswith(ANY_TAG_PREFIX)), "")


def words(volume: Volume) -> str:
    """Name, size, place and price."""
    price = "price not known" if volume.usd_per_month is None else f"${volume.usd_per_month:.2f} a month"
    return f"{volume.name}, {volume.size_gb:g} GB in {volume.region}, {price}"


def _by_id(volumes: Sequence[Volume], wanted: str) -> Volume | None:
    return next((volume for volume in volumes if volume.id == wanted), None)
