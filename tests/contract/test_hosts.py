"""The `Host` contract, run by both implementations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.host import Host
from orchestrator.ssh.host import SshHost
from orchestrator.this_machine import LocalHost
from providers.api import SshAccess
from tests.contract.host_contract import HostContract


class TestLocalHost(HostContract):
    @pytest.fixture
    def host(self) -> Host:  # type: ignore[override]
        return LocalHost()


class TestSshHost(HostContract):
    @pytest.fixture
    def host(self, ssh_access: SshAccess) -> Iterator[Host]:
        host = SshHost(ssh_access)
        yield host
        host.close()
