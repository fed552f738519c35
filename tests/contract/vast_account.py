"""An account of the Vast.ai that stands in for the real one, and what is rented there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from providers.api import BootPlan, GpuRequest, MachineId, Market
from providers.registry import ProviderContext
from providers.vast.provider import VastProvider
from tests.fakes.vast import FakeVast

SPOT = GpuRequest(market=Market.SPOT)


BOOT = BootPlan(start_command="echo up", disk_gb=10)


def made(vast: FakeVast, folder: Path, key: str | None = None) -> VastProvider:
    environ = {"VAST_API_KEY": vast.account_key if key is None else key, "VAST_URL": vast.url}
    return VastProvider(ProviderContext(folder, environ))


def rented(provider: VastProvider, want: GpuRequest = SPOT, **boot: Any) -> MachineId:
    fields = {"start_command": "echo up", "disk_gb": 10} | boot
    return provider.create(provider.offers(want)[0], BootPlan(**fields), "cb-1")
