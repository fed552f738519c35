"""`SshHost` against a real OpenSSH server: logging in, losing it, and how it is tuned."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.host import ConnectionLost, LoginRefused
from orchestrator.ssh.connection import REKEY_BYTES
from orchestrator.ssh.host import SshHost
from providers.api import SshAccess
from tests.e2e.ssh_home import MIB, answers, known, write_config
from tests.fakes.sshd import Sshd, make_key, running_agent


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """The path of a Unix socket has at most 104 characters on macOS, which tmp_path may exceed."""
    folder = tempfile.mkdtemp(prefix="cb-")
    yield Path(folder)
    shutil.rmtree(folder)


# ---- logging in ------------------------------------------------------------------------------------------------------


def test_a_named_identity_file_is_used(sshd: Sshd, isolated_home: Path) -> None:
    sshd.write_known_hosts(known(isolated_home))
    other = isolated_home / "keys" / "rented box"
    sshd.authorized_keys.write_text(make_key(other))
    (isolated_home / ".ssh" / "id_ed25519").unlink()
    assert answers(SshHost(sshd.access(identity_file=Path("~/keys/rented box"))))


def test_an_identity_file_that_does_not_exist_is_named_before_any_connection() -> None:
    with pytest.raises(LoginRefused, match=r"identity file ~/\.ssh/id_box does not exist") as caught:
        answers(SshHost(SshAccess("127.0.0.1", port=1, identity_file="~/.ssh/id_box")))
    assert "ssh-keygen -t ed25519 -f ~/.ssh/id_box" in caught.value.hint


def test_a_refused_login_names_the_keys_that_were_tried(sshd: Sshd, ssh_access: SshAccess, isolated_home: Path) -> None:
    sshd.authorized_keys.write_text("")
    with pytest.raises(LoginRefused, match=f"tried {isolated_home}/.ssh/id_ed25519$") as caught:
        answers(SshHost(ssh_access))
    assert caught.value.hint == f"ssh-copy-id -p {sshd.port} {ssh_access.user}@127.0.0.1"


def test_having_no_key_at_all_is_said(ssh_access: SshAccess, isolated_home: Path) -> None:
    (isolated_home / ".ssh" / "id_ed25519").unlink()
    with pytest.raises(LoginRefused, match="there is none to try") as caught:
        answers(SshHost(ssh_access))
    assert "ssh-keygen -t ed25519" in caught.value.hint


def test_an_encrypted_identity_without_an_agent_asks_for_ssh_add(
    sshd: Sshd, ssh_access: SshAccess, isolated_home: Path
) -> None:
    file = isolated_home / ".ssh" / "id_ed25519"
    sshd.authorized_keys.write_text(make_key(file, passphrase="secret words"))
    with pytest.raises(LoginRefused, match="needs a passphrase and no agent holds it") as caught:
        answers(SshHost(ssh_access))
    assert caught.value.hint == f"ssh-add {file}"


def test_a_key_that_only_the_agent_holds_is_used(
    ssh_access: SshAccess, isolated_home: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = isolated_home / ".ssh" / "id_ed25519"
    with running_agent(short_folder, [key]) as socket_path:
        key.unlink()
        monkeypatch.setenv("SSH_AUTH_SOCK", socket_path)
        assert answers(SshHost(ssh_access))


def test_an_agent_named_in_the_config_is_used(ssh_access: SshAccess, isolated_home: Path, short_folder: Path) -> None:
    key = isolated_home / ".ssh" / "id_ed25519"
    with running_agent(short_folder, [key]) as socket_path:
        key.unlink()
        write_config(isolated_home, f"IdentityAgent {socket_path}\n")
        assert answers(SshHost(ssh_access))


def test_an_encrypted_identity_is_used_through_the_agent(
    sshd: Sshd, isolated_home: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sshd.write_known_hosts(known(isolated_home))
    key = isolated_home / ".ssh" / "id_ed25519"
    with running_agent(short_folder, [key]) as socket_path:
        encrypt = ["ssh-keygen", "-p", "-P", "", "-N", "secret words", "-a", "1", "-f", str(key)]
        subprocess.run(encrypt, check=True, capture_output=True)
        monkeypatch.setenv("SSH_AUTH_SOCK", socket_path)
        write_config(isolated_home, "IdentitiesOnly yes\n")
        assert answers(SshHost(sshd.access(identity_file=key)))


def test_with_identities_only_the_agents_other_keys_are_not_shown(
    ssh_access: SshAccess, isolated_home: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = isolated_home / ".ssh" / "id_ed25519"
    with running_agent(short_folder, [key]) as socket_path:
        for file in (key, Path(f"{key}.pub")):
            file.unlink()
        monkeypatch.setenv("SSH_AUTH_SOCK", socket_path)
        write_config(isolated_home, "IdentitiesOnly yes\n")
        with pytest.raises(LoginRefused, match="there is none to try"):
            answers(SshHost(ssh_access))


def test_an_agent_that_declines_to_sign_does_not_end_the_login(
    ssh_access: SshAccess, isolated_home: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_key(isolated_home / "confirmed")
    with running_agent(short_folder, [isolated_home / "confirmed"], willing=False) as socket_path:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket_path)
        assert answers(SshHost(ssh_access))


def test_an_agent_full_of_wrong_keys_ends_in_advice_to_name_one(
    ssh_access: SshAccess, isolated_home: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [isolated_home / f"wrong{n}" for n in range(7)]
    for key in keys:
        make_key(key)
    with running_agent(short_folder, keys) as socket_path:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket_path)
        with pytest.raises(LoginRefused, match="after which the server hung up") as caught:
            answers(SshHost(ssh_access))
    assert "IdentitiesOnly yes" in caught.value.hint


def test_a_file_that_is_no_key_is_said_to_be_none(ssh_access: SshAccess, isolated_home: Path) -> None:
    (isolated_home / ".ssh" / "id_ed25519").write_text("not a key\n")
    with pytest.raises(LoginRefused, match=r"could not use .*id_ed25519"):
        answers(SshHost(ssh_access))


# ---- losing it -------------------------------------------------------------------------------------------------------


def test_a_connection_killed_while_receiving_is_lost_and_not_ended(sshd: Sshd, ssh_access: SshAccess) -> None:
    host = SshHost(ssh_access)
    with host.receive(["sh", "-c", f"head -c {64 * MIB} /dev/zero; cat"]) as chunks:
        assert next(chunks)
        assert sshd.kill_connections()
        with pytest.raises(ConnectionLost, match=f"lost the connection to {ssh_access.user}@127.0.0.1"):
            for _ in chunks:
                pass
    assert answers(host)


def test_a_connection_killed_while_sending_is_lost(sshd: Sshd, ssh_access: SshAccess) -> None:
    host = SshHost(ssh_access)

    def chunks() -> Iterator[bytes]:
        yield b"x" * MIB
        assert sshd.kill_connections()
        for _ in range(64):
            yield b"x" * MIB

    with pytest.raises(ConnectionLost):
        host.send(["cat"], chunks())
    assert answers(host)


def test_a_connection_that_broke_while_idle_is_replaced(sshd: Sshd, ssh_access: SshAccess) -> None:
    host = SshHost(ssh_access)
    assert host.run(["true"]).exit_code == 0
    assert sshd.kill_connections()
    assert answers(host)


def test_a_server_that_freezes_is_lost_although_its_link_stands(sshd: Sshd, ssh_access: SshAccess) -> None:
    host = SshHost(ssh_access)

    def chunks() -> Iterator[bytes]:
        yield b"x" * MIB
        assert sshd.freeze_connections()
        for _ in range(64):
            yield b"x" * MIB

    with pytest.raises(ConnectionLost, match=r"0\.5 s"):
        host.send(["cat"], chunks(), idle_timeout_s=0.5)
    assert answers(host)


def test_a_connection_that_froze_while_idle_is_replaced(sshd: Sshd, ssh_access: SshAccess) -> None:
    host = SshHost(ssh_access)
    assert host.run(["true"]).exit_code == 0
    assert sshd.freeze_connections()
    assert host.run(["echo", "again"], timeout_s=4.0).stdout == b"again\n"
    host.close()


# ---- how it is tuned -------------------------------------------------------------------------------------------------


def test_small_requests_go_out_at_once(ssh_access: SshAccess) -> None:
    host = SshHost(ssh_access)
    assert host.connect().transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    host.close()


def test_the_fast_cipher_is_negotiated_both_ways(ssh_access: SshAccess) -> None:
    host = SshHost(ssh_access)
    transport = host.connect().transport
    assert {transport.local_cipher, transport.remote_cipher} == {"aes128-gcm@openssh.com"}
    host.close()


def test_no_rekey_falls_into_a_download_of_usual_size(ssh_access: SshAccess) -> None:
    host = SshHost(ssh_access)
    assert host.connect().transport.packetizer.REKEY_BYTES == REKEY_BYTES == 64 << 30
    host.close()
