"""The keys of a rented machine: made before it, recognized by SSH, gone after it."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.host import HostKeyRejected
from orchestrator.ssh.host import SshHost
from orchestrator.ssh.host_keys import HostKey
from orchestrator.ssh.machine_keys import forget_machine_keys, make_machine_keys, read_machine_keys
from providers.api import SshAccess
from tests.conftest import require_sshd
from tests.fakes.sshd import Sshd, running_sshd


def test_keys_are_made_once_for_a_machine(tmp_path: Path) -> None:
    made = make_machine_keys(tmp_path, "cb-1")
    assert make_machine_keys(tmp_path, "cb-1") == made
    assert make_machine_keys(tmp_path, "cb-2").host_key != made.host_key
    assert HostKey.from_line(made.host_key).type == HostKey.from_line(made.authorized_key).type == "ssh-ed25519"
    assert made.host_key != made.authorized_key


def test_nobody_else_can_read_them(tmp_path: Path) -> None:
    make_machine_keys(tmp_path / "keys", "cb-1")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").rglob("*")}
    assert set(modes.values()) == {0o700, 0o600}
    assert modes["cb-1"] == 0o700


def test_a_private_key_is_not_shown(tmp_path: Path) -> None:
    made = make_machine_keys(tmp_path, "cb-1")
    assert "PRIVATE" in made.host_key_private.reveal()
    assert "PRIVATE" not in repr(made)


def test_they_are_gone_once_the_machine_is(tmp_path: Path) -> None:
    make_machine_keys(tmp_path, "cb-1")
    forget_machine_keys(tmp_path, "cb-1")
    forget_machine_keys(tmp_path, "cb-1")
    assert read_machine_keys(tmp_path, "cb-1") is None
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[tuple[Sshd, SshAccess]]:
    """A machine that lets the run in, and how it is reached: by its keys alone, whatever known_hosts holds."""
    require_sshd()
    keys = make_machine_keys(tmp_path / "keys", "cb-1")
    with running_sshd(tmp_path / "sshd", [keys.authorized_key]) as server:
        yield server, server.access(identity_file=keys.identity_file, host_key=keys.host_key)


def test_the_machine_is_recognized_at_the_first_connection(tmp_path: Path, machine: tuple[Sshd, SshAccess]) -> None:
    server, access = machine
    keys = make_machine_keys(tmp_path / "keys", "cb-1")
    server.go_away()
    (server.folder / "host_ed25519").write_text(keys.host_key_private.reveal())  # as its boot plan does
    server.come_back()
    host = SshHost(access)
    assert host.run(["echo", "hi"]).stdout == b"hi\n"
    host.close()


def test_nothing_is_sent_to_a_machine_that_shows_another_key(machine: tuple[Sshd, SshAccess]) -> None:
    server, access = machine
    with pytest.raises(HostKeyRejected, match="not the pinned"):
        SshHost(access).run(["echo", "hi"])
    server.go_away()
    assert "Connection from 127.0.0.1" in server.log
    for word in ("publickey", "authenticating user", "Accepted", "invalid user"):
        assert word not in server.log, "no login was tried"
