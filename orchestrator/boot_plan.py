"""How a rented machine comes up, composed here alone: its offer, its keys, and the way it gives itself back. Pure."""

from __future__ import annotations

import math

from orchestrator.boot_script import GuardSettings, guard_program, start_command
from orchestrator.ssh.machine_keys import MachineKeys
from providers.api import BootPlan, Offer, SelfRelease

BOOT_DEADLINE_S = 600.0
"""A rented machine that has not let us in after this long is given back: a cold image takes minutes on a good host."""
FIRST_LEASE_S = BOOT_DEADLINE_S + 900.0
"""From the machine's boot until somebody must have renewed: the boot and, with a margin, the first login."""
GUARD_FILE = "guard.sh"
"""Beside the machine's keys on the laptop."""


def boot_plan(
    offer: Offer,
    keys: MachineKeys,
    self_release: SelfRelease | None,
    disk_gb: float | None,
    paid_for_s: float = math.inf,
) -> BootPlan:
    """`disk_gb` as the run needs it; None leaves it to the provider. `paid_for_s` is what the ceiling leaves: where
    nobody ever logs in, the machine runs no longer than that.

    Raises CloudboothError when the provider's calls for self-release are too long for a start command.
    """
    command = start_command(
        self_release,
        _guard_settings(offer, paid_for_s),
        authorized_key=keys.authorized_key,
        host_key_private=keys.host_key_private.reveal(),
    )
    return BootPlan(start_command=command, authorized_key=keys.authorized_key, disk_gb=disk_gb or 0.0)


def guard_for(offer: Offer, self_release: SelfRelease | None, paid_for_s: float = math.inf) -> str | None:
    """The guard of the boot plan, once more: for a machine that came up without running its start command."""
    return None if self_release is None else guard_program(self_release, _guard_settings(offer, paid_for_s))


def _guard_settings(offer: Offer, paid_for_s: float) -> GuardSettings:
    return GuardSettings(workdir=offer.workdir, first_lease_s=int(min(FIRST_LEASE_S, paid_for_s)))
