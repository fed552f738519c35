"""The `Host` contract, run by both implementations."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.host import ConnectionLost, Host
from orchestrator.ssh.host import SshHost
from orchestrator.this_machine import LocalHost
from providers.api import SshAccess
from tests.contract.host_contract import HostContract


class TestLocalHost(HostContract):
    @pytest.fixture
    def host(self) -> Host:  # type: ignore[override]
        return LocalHost()

    def test_a_command_that_ignores_the_end_of_its_input_is_killed_and_reaped(self, host: Host) -> None:
        with host.receive(["sh", "-c", "echo $$; exec sleep 60"]) as chunks:
            pid = int(next(chunks))
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    def test_a_command_that_took_too_long_is_killed_and_reaped(self, host: Host, tmp_path: Path) -> None:
        started = tmp_path / "pid"
        with pytest.raises(ConnectionLost):
            host.run(["sh", "-c", 'echo $$ >"$0"; exec sleep 60', str(started)], timeout_s=2.0)
        with pytest.raises(ChildProcessError):
            os.waitpid(int(started.read_text()), os.WNOHANG)

    def test_commands_are_out_of_reach_of_the_terminals_interrupt(self, host: Host) -> None:
        program = "import os; print(os.getsid(0) == os.getpid())"
        assert host.run([sys.executable, "-c", program]).stdout == b"True\n"


class TestSshHost(HostContract):
    @pytest.fixture
    def host(self, ssh_access: SshAccess) -> Iterator[Host]:
        host = SshHost(ssh_access)
        yield host
        host.close()
