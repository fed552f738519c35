"""Instances of Vast.ai's fake as machines: what the boot plan does there, and what outlives an interruption."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.boot_script import GuardSettings, start_command
from orchestrator.ssh.machine_keys import MachineKeys, make_machine_keys
from providers.api import BootPlan, GpuRequest, MachineId, Market, SshAccess
from providers.registry import ProviderContext
from providers.vast.provider import VastProvider
from tests.conftest import require_pods
from tests.e2e.command import wait_until
from tests.fakes.vast import FakeVast, running_vast

TAG = "cb-pods-run-1-1790000000"


@pytest.fixture
def vast(tmp_path: Path) -> Iterator[FakeVast]:
    require_pods()
    with running_vast(FakeVast(pods=tmp_path / "pods")) as fake:
        yield fake
    assert fake.violations == []


@pytest.fixture
def provider(vast: FakeVast, tmp_path: Path) -> VastProvider:
    return VastProvider(ProviderContext(tmp_path, {"VAST_API_KEY": vast.account_key, "VAST_URL": vast.url}))


@pytest.fixture
def keys(tmp_path: Path) -> MachineKeys:
    return make_machine_keys(tmp_path / "keys", TAG)


def rented(provider: VastProvider, keys: MachineKeys, first_lease_s: int = 600) -> MachineId:
    offer = provider.offers(GpuRequest(market=Market.SPOT))[0]
    command = start_command(
        provider.self_release(offer), GuardSettings(offer.workdir, first_lease_s, poll_s=0.2, retry_s=1),
        authorized_key=keys.authorized_key, host_key_private=keys.host_key_private.reveal(),
    )  # fmt: skip
    return provider.create(offer, BootPlan(start_command=command, authorized_key=keys.authorized_key), TAG)


def ssh(access: SshAccess, keys: MachineKeys, folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """With the machine's own host key as the only one that is known."""
    known = folder / "known_hosts"
    known.write_text(f"[{access.host}]:{access.port} {' '.join(keys.host_key.split()[:2])}\n")
    options = ["-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]
    options += ["-o", "HostKeyAlgorithms=ssh-ed25519", "-o", "ConnectTimeout=5"]
    argv = [
        "ssh",
        "-i",
        str(keys.identity_file),
        "-p",
        str(access.port),
        *options,
        f"{access.user}@{access.host}",
        command,
    ]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)


def await_login(provider: VastProvider, machine: MachineId, keys: MachineKeys, folder: Path) -> SshAccess:
    found: list[SshAccess] = []

    def lets_us_in() -> bool:
        access = provider.describe(machine).access
        if isinstance(access, SshAccess) and ssh(access, keys, folder, "true").returncode == 0:
            found.append(access)
        return bool(found)

    wait_until(lets_us_in, "a login at the rented machine")
    return found[0]


def test_a_rented_machine_shows_our_host_key_lets_us_in_and_proves_self_release(
    vast: FakeVast, provider: VastProvider, keys: MachineKeys, tmp_path: Path
) -> None:
    machine = rented(provider, keys)
    access = await_login(provider, machine, keys, tmp_path)

    def proof() -> str:
        return ssh(access, keys, tmp_path, "cat /dev/shm/cloudbooth-guard/proof").stdout.strip()

    wait_until(lambda: proof() == "200", "the guard's proof")
    assert provider.describe(machine).tag == TAG, "the probe has changed the label"
    [rental] = vast.living()
    assert rental.pod is not None
    seen = "\n".join([rental.pod.log, *map(repr, rental.pod.processes())])
    assert "CONTAINER_API_KEY" in seen, "the test looks in the wrong place"
    assert vast.account_key not in seen


def test_a_machine_that_nobody_comes_to_destroys_itself(
    vast: FakeVast, provider: VastProvider, keys: MachineKeys
) -> None:
    rented(provider, keys, first_lease_s=1)
    wait_until(lambda: vast.living() == [], "the machine's own end")


def test_a_machine_that_comes_back_from_an_interruption_has_its_disk_and_a_new_port(
    vast: FakeVast, provider: VastProvider, keys: MachineKeys, tmp_path: Path
) -> None:
    vast.auto_resume = True
    machine = rented(provider, keys)
    before = await_login(provider, machine, keys, tmp_path)
    ssh(before, keys, tmp_path, "mkdir -p /workspace/cloudbooth; echo kept > /workspace/cloudbooth/mark")
    vast.set_min_bid(1, 0.9)
    assert provider.describe(machine).access is None
    wait_until(lambda: provider.describe(machine).status_text == "exited, outbid or stopped", "the container's end")
    vast.set_min_bid(1, 0.1)
    after = await_login(provider, machine, keys, tmp_path)
    assert ssh(after, keys, tmp_path, "cat /workspace/cloudbooth/mark").stdout == "kept\n"
    assert after.port != before.port
