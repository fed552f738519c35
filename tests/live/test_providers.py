"""The provider contract on the real services: rents machines, costs money, says how much.

    RUNPOD_API_KEY=… .venv/bin/python -m pytest -m live tests/live -k runpod

Rents the cheapest GPU for seconds at a time, about forty times. A test begins only while the estimate of what was
spent lies below CLOUDBOOTH_LIVE_MAX_USD (0.50 by default); whatever a test rented is released after it, and the
closing line names the estimate and everything that is still listed under the tests' tags.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from providers.api import BootPlan, GpuRequest, MachineProvider
from providers.registry import ProviderContext, load_provider
from providers.retrying import RetryingProvider
from providers.testing.contract import MachineProviderContract

pytestmark = pytest.mark.live

TAG_PREFIX = "cb-contract-"
SETTLE_S = 10.0
MACHINES_A_TEST = 3
"""The most that one test of the contract holds at a time: what it is taken to have cost."""


@dataclass
class Purse:
    """An estimate, always on the high side: every machine of a test counts from its beginning to its end."""

    max_usd: float = field(default_factory=lambda: float(os.environ.get("CLOUDBOOTH_LIVE_MAX_USD", "0.50")))
    spent_usd: float = 0.0

    def pay(self, seconds: float, price_per_hour_usd: float) -> None:
        self.spent_usd += MACHINES_A_TEST * price_per_hour_usd * seconds / 3600


@pytest.fixture(scope="module")
def purse() -> Iterator[Purse]:
    purse = Purse()
    yield purse
    print(f"\nspent about ${purse.spent_usd:.2f} at most, of ${purse.max_usd:.2f}")


class LiveContract(MachineProviderContract):
    name = ""
    key = ""
    """Environment variable of the credential; without it the tests are skipped."""
    want = GpuRequest(disk_gb=20)
    boot = BootPlan(disk_gb=20, start_command="true", authorized_key="ssh-ed25519 AAAA nobody")

    tag = f"{TAG_PREFIX}{os.getpid()}"

    @pytest.fixture
    def provider(self, tmp_path: Path, purse: Purse) -> Iterator[MachineProvider]:
        if not os.environ.get(self.key):
            pytest.skip(f"{self.key} is not set")
        if purse.spent_usd >= purse.max_usd:
            pytest.skip(f"the estimate reached ${purse.max_usd:.2f}: CLOUDBOOTH_LIVE_MAX_USD raises the cap")
        # the contract looks faster than services allow, and is told to wait
        provider = RetryingProvider(load_provider(self.name, ProviderContext(tmp_path)), time.sleep)
        began_at = time.monotonic()
        price = provider.offers(self.want)[0].price_per_hour_usd
        try:
            yield provider
        finally:
            self._give_everything_back(provider)
            purse.pay(time.monotonic() - began_at, price)

    def _give_everything_back(self, provider: MachineProvider) -> None:
        """Until two looks in a row find nothing: a machine may be listed late."""
        empty_looks, give_up_at = 0, time.monotonic() + 300
        while empty_looks < 2 and time.monotonic() < give_up_at:
            listed = provider.list(TAG_PREFIX)
            for machine in listed:
                provider.release(machine.id)
            empty_looks = 0 if listed else empty_looks + 1
            time.sleep(SETTLE_S / 2)
        left = [machine.tag for machine in provider.list(TAG_PREFIX)]
        assert not left, f"still listed, and perhaps billed: {left}"

    def settle(self, provider: MachineProvider) -> None:
        time.sleep(SETTLE_S)

    def test_the_list_is_empty_before_anything_was_created(self, provider: MachineProvider) -> None:
        """On an account that may hold machines of others: those of ours."""
        assert not provider.list(TAG_PREFIX)

    def test_the_list_holds_every_machine_with_the_prefix_and_no_other(self, provider: MachineProvider) -> None:
        tags = [f"{TAG_PREFIX}one-1", f"{TAG_PREFIX}two-1"]
        for tag in tags:
            self._create(provider, tag)
        assert [machine.tag for machine in provider.list(f"{TAG_PREFIX}one")] == tags[:1]
        assert sorted(machine.tag for machine in provider.list(TAG_PREFIX)) == tags


class TestRunPod(LiveContract):
    name, key = "runpod", "RUNPOD_API_KEY"


class TestVast(LiveContract):
    name, key = "vast", "VAST_API_KEY"
