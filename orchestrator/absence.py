"""When a machine is believed to be gone: one answer may be wrong, so two that agree are asked for."""

from __future__ import annotations

from collections.abc import Callable

from providers.api import Bills, MachineId
from providers.errors import MachineGone

AGREEMENT_S = 5.0
"""How far apart two answers lie that are believed when they agree."""


def exists(provider: Bills, machine: MachineId) -> bool:
    """By one look. Raises what the provider raises but MachineGone."""
    try:
        provider.describe(machine)
    except MachineGone:
        return False
    return True


def is_absent(provider: Bills, machine: MachineId, sleep: Callable[[float], None]) -> bool:
    """By two looks, `AGREEMENT_S` apart if the first finds nothing. Raises as `exists`."""
    if exists(provider, machine):
        return False
    sleep(AGREEMENT_S)
    return not exists(provider, machine)
