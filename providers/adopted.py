"""A rented machine that somebody else keeps: used as it stands, and left running.

To its run it is like a machine of the user's own. What it costs is its keeper's bill, not the run's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from providers.api import Access, Machine, MachineId, MachineProvider, MachineStatus, SshAccess
from providers.errors import CloudboothError, MachineGone
from providers.unbilled import UnbilledProvider


class AdoptedMachine(UnbilledProvider):
    """One machine of `inner`, by its id there. A `MachineProvider` with a standing machine (`HasStandingMachine`)."""

    def __init__(
        self,
        inner: MachineProvider,
        machine: MachineId,
        state_folder: Path,
        *,
        identity_file: str | None = None,
        host_key: str | None = None,
    ) -> None:
        """`identity_file` and `host_key` are those of whoever rented it, where `inner` names none."""
        self.name = inner.name
        self.gpu = f"{inner.name} machine {machine}"
        super().__init__(state_folder / "adopted")
        self._inner, self._machine = inner, machine
        self._identity_file, self._host_key = identity_file, host_key

    def access(self) -> Access:
        """One exchange with the service. Raises CloudboothError while the machine is not running or has no address."""
        return self._look()[1]

    def describe(self, machine: MachineId) -> Machine:
        """Asks where the machine answers now: the address may have changed since it was taken."""
        rental = super().describe(machine)
        found, access = self._look()
        return replace(rental, access=access, status=found.status, status_text=found.status_text)

    def _look(self) -> tuple[Machine, Access]:
        try:
            found = self._inner.describe(self._machine)
        except MachineGone as error:
            raise MachineGone(
                error.message, f"check the id {self._machine}; without compute.machine one is rented"
            ) from error
        if found.access is None or found.status is not MachineStatus.RUNNING:
            raise CloudboothError(
                f"the machine {self._machine} at {self.name} cannot be used: it is {found.status_text}",
                "start it there, or leave out compute.machine to rent another",
            )
        if not isinstance(found.access, SshAccess):
            return found, found.access
        identity_file = found.access.identity_file or self._identity_file
        return found, replace(
            found.access, identity_file=identity_file, host_key=found.access.host_key or self._host_key
        )
