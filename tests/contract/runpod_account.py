"""An account of the RunPod that stands in for the real one, and what is rented there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from providers.api import BootPlan, GpuRequest, MachineId, Offer
from providers.registry import ProviderContext
from providers.runpod.provider import RunPodProvider
from tests.fakes.runpod import FakeRunPod

ACCOUNT_KEY = "rpa_ACCOUNTKEY"


BOOT = BootPlan(disk_gb=30, start_command="true", authorized_key="ssh-ed25519 AAAA run")


def built(runpod: FakeRunPod, tmp_path: Path, **environ: str) -> RunPodProvider:
    return RunPodProvider(ProviderContext(tmp_path, {**runpod.environ, **environ}))


def cheapest(provider: RunPodProvider, **want: Any) -> Offer:
    return provider.offers(GpuRequest(disk_gb=30, **want))[0]


def rented(provider: RunPodProvider, tag: str = "cb-i-run-1-1790000000") -> MachineId:
    return provider.create(cheapest(provider), BOOT, tag)


def needs_the_vendors_package() -> None:
    """Skips without it; CLOUDBOOTH_REQUIRE_RUNPOD=1 says that it must be there."""
    if os.environ.get("CLOUDBOOTH_REQUIRE_RUNPOD") != "1":
        pytest.importorskip("runpod", reason="the extra `runpod` is not installed")
