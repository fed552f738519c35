"""Every provider under the one suite: those that rent nothing, and Vast.ai against its fake."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from providers.api import BootPlan, GpuRequest, MachineProvider, Market, SshAccess, ThisMachine
from providers.errors import CloudboothError, NoCapacity
from providers.local import LocalProvider
from providers.registry import ProviderContext
from providers.ssh_host import SshHostProvider
from providers.testing.contract import MachineProviderContract
from providers.vast.provider import VastProvider
from tests.fakes.vast import FakeVast, running_vast

OPTIONS: dict[str, str | int | None] = {
    "host": "me@gpu-box",
    "port": 2222,
    "identity_file": "~/.ssh/id_ed25519",
    "user": None,
}


def context(folder: Path, **options: str | int | None) -> ProviderContext:
    return ProviderContext(folder, {}, options)


class TestLocal(MachineProviderContract):
    @pytest.fixture
    def provider(self, tmp_path: Path) -> MachineProvider:
        return LocalProvider(context(tmp_path))

    def test_it_leads_to_this_machine_and_this_python(self, provider: MachineProvider, tmp_path: Path) -> None:
        machine = provider.create(provider.offers(GpuRequest())[0], BootPlan(), "t")
        assert provider.describe(machine).access == ThisMachine(sys.executable, str(tmp_path / "host"))


class TestSsh(MachineProviderContract):
    @pytest.fixture
    def provider(self, tmp_path: Path) -> MachineProvider:
        return SshHostProvider(context(tmp_path, **OPTIONS))

    def test_the_options_become_the_access(self, provider: MachineProvider) -> None:
        machine = provider.create(provider.offers(GpuRequest())[0], BootPlan(), "t")
        expected = SshAccess("me@gpu-box", port=2222, identity_file="~/.ssh/id_ed25519")
        assert provider.describe(machine).access == expected

    def test_a_missing_host_is_explained_by_the_lines_to_write(self, tmp_path: Path) -> None:
        with pytest.raises(CloudboothError, match="needs to know the host") as caught:
            SshHostProvider(context(tmp_path))
        assert '[compute.ssh]\nhost = "' in caught.value.hint

    @pytest.mark.parametrize("port", ["many", 0, 65536, True])
    def test_a_port_that_is_none_is_refused(self, tmp_path: Path, port: str | int) -> None:
        with pytest.raises(CloudboothError, match=r"compute\.ssh\.port"):
            SshHostProvider(context(tmp_path, host="h", port=port))

    def test_an_unknown_option_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(CloudboothError, match=r"compute\.ssh\.hots"):
            SshHostProvider(context(tmp_path, host="h", hots="x"))


class TestVast(MachineProviderContract):
    boot = BootPlan(image="ubuntu:24.04", disk_gb=40)

    @pytest.fixture
    def vast(self) -> Iterator[FakeVast]:
        with running_vast() as fake:
            yield fake
        assert fake.violations == []

    @pytest.fixture
    def provider(self, vast: FakeVast, tmp_path: Path) -> MachineProvider:
        type(self).secrets = (vast.account_key,)
        return VastProvider(ProviderContext(tmp_path, {"VAST_API_KEY": vast.account_key, "VAST_URL": vast.url}))


class TestVastSpot(TestVast):
    want = GpuRequest(market=Market.SPOT)


def taken(provider: MachineProvider, tag: str) -> None:
    provider.create(provider.offers(GpuRequest())[0], BootPlan(), tag)


def test_another_process_sees_the_rental(tmp_path: Path) -> None:
    taken(LocalProvider(context(tmp_path)), "cb-1")
    assert [machine.tag for machine in LocalProvider(context(tmp_path)).list("cb-")] == ["cb-1"]


def test_a_rental_keeps_the_access_it_was_made_with(tmp_path: Path) -> None:
    taken(SshHostProvider(context(tmp_path, host="old-box")), "cb-1")
    [machine] = SshHostProvider(context(tmp_path, host="new-box")).list("cb-1")
    assert machine.access == SshAccess("old-box")


def test_a_tag_is_taken_once(tmp_path: Path) -> None:
    provider = LocalProvider(context(tmp_path))
    taken(provider, "cb-1")
    with pytest.raises(CloudboothError, match="exists already"):
        taken(provider, "cb-1")


def test_a_tag_never_leaves_the_folder(tmp_path: Path) -> None:
    with pytest.raises(CloudboothError, match="no machine tag"):
        taken(LocalProvider(context(tmp_path)), "../cb-1")


def test_nothing_half_written_is_left_behind(tmp_path: Path) -> None:
    taken(LocalProvider(context(tmp_path)), "cb-1")
    assert [path.name for path in (tmp_path / "machines" / "local").iterdir()] == ["cb-1.json"]


def test_a_damaged_record_is_named_with_its_path(tmp_path: Path) -> None:
    provider = LocalProvider(context(tmp_path))
    taken(provider, "cb-1")
    record = tmp_path / "machines" / "local" / "cb-1.json"
    record.write_text("{")
    with pytest.raises(CloudboothError, match="damaged") as caught:
        provider.list("")
    assert caught.value.hint == f"rm {record}"


def test_the_offer_of_another_provider_is_refused(tmp_path: Path) -> None:
    offer = SshHostProvider(context(tmp_path, host="h")).offers(GpuRequest())[0]
    with pytest.raises(NoCapacity):
        LocalProvider(context(tmp_path)).create(offer, BootPlan(), "cb-1")
