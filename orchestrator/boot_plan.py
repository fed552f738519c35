"""How a rented machine comes up, composed here alone: its offer, its keys, and the way it gives itself back. Pure."""

from __future__ import annotations

from orchestrator.boot_script import GuardSettings, guard_program, start_command
from orchestrator.ssh.machine_keys import MachineKeys
from providers.api import BootPlan, Offer, Rendezvous, SelfRelease

GUARD_FILE = "guard.sh"
"""Beside the machine's keys on the laptop."""


def boot_plan(
    offer: Offer,
    keys: MachineKeys,
    self_release: SelfRelease | None,
    disk_gb: float | None,
    first_lease_s: float,
    volume: str = "",
    rendezvous: Rendezvous | None = None,
) -> BootPlan:
    """`disk_gb` as the run needs it; None leaves it to the provider. `first_lease_s`: see `budget.first_lease_s`.
    `volume` as in `compute.volume`. `rendezvous`: with the run's other machines; None for a machine that is alone.

    Raises CloudboothError when the provider's calls for self-release are too long for a start command.
    """
    command = start_command(
        self_release,
        _guard_settings(offer, first_lease_s),
        authorized_key=keys.authorized_key,
        host_key_private=keys.host_key_private.reveal(),
        meets_others=rendezvous is not None,
    )
    return BootPlan(
        start_command=command,
        env={} if rendezvous is None else rendezvous.environment,
        authorized_key=keys.authorized_key,
        disk_gb=disk_gb or 0.0,
        volume=volume,
    )


def guard_for(offer: Offer, self_release: SelfRelease | None, first_lease_s: float) -> str | None:
    """The guard of the boot plan, once more: for a machine that came up without running its start command."""
    return None if self_release is None else guard_program(self_release, _guard_settings(offer, first_lease_s))


def _guard_settings(offer: Offer, first_lease_s: float) -> GuardSettings:
    return GuardSettings(workdir=offer.workdir, first_lease_s=int(first_lease_s))
