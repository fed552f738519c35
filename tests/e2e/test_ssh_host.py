"""`SshHost` against a real OpenSSH server: finding it, trusting it."""

from __future__ import annotations

import getpass
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator.host import HostKeyRejected, HostUnreachable
from orchestrator.ssh.host import SshHost
from providers.api import SshAccess
from tests.e2e.ssh_home import answers, known, write_config
from tests.fakes.sshd import Sshd, corrupted, make_key, running_sshd

# ---- finding it ------------------------------------------------------------------------------------------------------


def test_an_alias_from_an_included_file_is_understood(ssh_access: SshAccess, isolated_home: Path) -> None:
    part = isolated_home / ".ssh" / "boxes.conf"
    part.write_text(f"Host gpu-box\n  HostName 127.0.0.1\n  Port {ssh_access.port}\n  User {ssh_access.user}\n")
    write_config(isolated_home, f"Include {part}\n")
    assert answers(SshHost(SshAccess("gpu-box")))


def test_the_port_of_the_access_wins_over_the_config(ssh_access: SshAccess, isolated_home: Path) -> None:
    write_config(isolated_home, "Host gpu-box\n  HostName 127.0.0.1\n  Port 1\n")
    assert answers(SshHost(SshAccess("gpu-box", port=ssh_access.port, user=ssh_access.user)))


def test_a_config_named_by_the_environment_is_read_instead(
    ssh_access: SshAccess, isolated_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(isolated_home, "Host gpu-box\n  HostName 127.0.0.1\n  Port 1\n")
    other = tmp_path / "other config"
    other.write_text(f"Host gpu-box\n  HostName 127.0.0.1\n  Port {ssh_access.port}\n")
    monkeypatch.setenv("CLOUDBOOTH_SSH_CONFIG", str(other))
    assert answers(SshHost(SshAccess("gpu-box")))


def test_user_and_host_may_be_written_as_one(ssh_access: SshAccess) -> None:
    assert answers(SshHost(SshAccess(f"{getpass.getuser()}@127.0.0.1", port=ssh_access.port)))


@pytest.mark.parametrize(
    "way", ["ProxyJump jump", "ProxyCommand ssh -F ~/config -o BatchMode=yes -W %h:%p jump"], ids=["jump", "command"]
)
def test_a_jump_host_is_passed_through(ssh_access: SshAccess, isolated_home: Path, tmp_path: Path, way: str) -> None:
    key = isolated_home / ".ssh" / "id_ed25519"
    with running_sshd(tmp_path / "jump", [Path(f"{key}.pub").read_text()]) as jump:
        jump_known = tmp_path / "jump_known_hosts"
        jump.write_known_hosts(jump_known)
        with known(isolated_home).open("a") as file:
            file.write(jump_known.read_text())
        config = write_config(
            isolated_home,
            f"Host jump\n  HostName 127.0.0.1\n  Port {jump.port}\n  IdentityFile {key}\n"
            f"  UserKnownHostsFile {known(isolated_home)}\n"
            f"Host gpu-box\n  HostName 127.0.0.1\n  Port {ssh_access.port}\n  {way}\n",
        )
        config.write_text(config.read_text().replace("~/config", str(config)))
        host = SshHost(SshAccess("gpu-box"))
        assert host.run(["echo", "far"]).stdout == b"far\n"
        proxy = host.connect().proxy
        host.close()
        assert proxy is not None
        assert proxy.returncode is not None, "the proxy has been left behind"
        assert "Accepted publickey" in jump.log


def test_a_jump_host_that_is_down_is_named_by_what_its_proxy_says(isolated_home: Path) -> None:
    known(isolated_home).parent.mkdir()
    write_config(isolated_home, "Host jump\n  HostName 127.0.0.1\n  Port 1\nHost gpu-box\n  ProxyJump jump\n")
    with pytest.raises(HostUnreachable, match="port 1: Connection refused") as caught:
        answers(SshHost(SshAccess("gpu-box")))
    assert caught.value.hint == "ssh gpu-box true"


def test_a_port_where_nobody_listens_is_unreachable() -> None:
    with pytest.raises(HostUnreachable, match=r"127\.0\.0\.1 port 1 cannot be reached: connection refused") as caught:
        answers(SshHost(SshAccess("127.0.0.1", port=1, user="me")))
    assert caught.value.hint == "ssh -p 1 me@127.0.0.1 true"


def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    with pytest.raises(HostUnreachable, match=r"the name no-such-box\.invalid cannot be resolved"):
        answers(SshHost(SshAccess("no-such-box.invalid")))


@pytest.mark.parametrize("host", ["-oProxyCommand=id", "a;b", "a b", "$(id)"])
def test_a_name_that_would_be_a_command_is_refused(host: str) -> None:
    with pytest.raises(HostUnreachable, match="no host or user name"):
        answers(SshHost(SshAccess(host)))


def test_a_broken_config_is_named(ssh_access: SshAccess, isolated_home: Path) -> None:
    write_config(isolated_home, "Hots gpu-box\n")
    with pytest.raises(HostUnreachable, match=r"\.ssh/config.*[Bb]ad configuration option: hots"):
        answers(SshHost(ssh_access))


def test_a_server_that_never_speaks_is_given_up_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(HostUnreachable, match="no SSH handshake"):
        answers(SshHost(SshAccess("127.0.0.1", port=mute.getsockname()[1]), connect_timeout_s=0.3))


def test_a_failed_connection_leaves_nothing_on_stderr() -> None:
    program = (
        "import sys\n"
        "from orchestrator.ssh.host import SshHost\n"
        "from orchestrator.host import HostUnreachable\n"
        "from providers.api import SshAccess\n"
        "try:\n"
        "    SshHost(SshAccess('127.0.0.1', port=int(sys.argv[1]))).run(['true'])\n"
        "except HostUnreachable as error:\n"
        "    print(error.message)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as web:
        port = web.getsockname()[1]

        def refuse() -> None:
            connection, _ = web.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        argv = [sys.executable, "-c", program, str(port)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        thread.join()
    assert (done.returncode, done.stderr) == (0, "")
    assert f"127.0.0.1 port {port} answers, but no SSH handshake" in done.stdout


# ---- trusting it -----------------------------------------------------------------------------------------------------


def test_an_unknown_key_is_refused_with_its_fingerprint_before_any_login(sshd: Sshd) -> None:
    with pytest.raises(HostKeyRejected, match=r"is unknown: SHA256:\S+ \(ssh-ed25519\)") as caught:
        answers(SshHost(sshd.access()))
    expected = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(sshd.folder / "host_ed25519.pub")], check=True, capture_output=True, text=True
    )
    assert expected.stdout.split()[1] in caught.value.message
    assert f"`ssh-keyscan -p {sshd.port} -t ed25519 127.0.0.1 >> ~/.ssh/known_hosts`" in caught.value.hint
    assert "publickey" not in sshd.log


def test_the_hint_for_an_unknown_key_works_when_pasted(sshd: Sshd) -> None:
    with pytest.raises(HostKeyRejected) as caught:
        answers(SshHost(sshd.access()))
    command = caught.value.hint.split("`")[-2]
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    assert answers(SshHost(sshd.access()))


def test_a_changed_key_is_refused_with_file_and_line(isolated_home: Path, tmp_path: Path) -> None:
    public = make_key(isolated_home / ".ssh" / "id_ed25519")
    with running_sshd(tmp_path / "before", [public]) as before:
        before.write_known_hosts(known(isolated_home))
        assert answers(SshHost(before.access()))
    with running_sshd(tmp_path / "after", [public], port=before.port) as after:
        with pytest.raises(HostKeyRejected, match=f"has changed.* line 2 of {known(isolated_home)} holds") as caught:
            answers(SshHost(after.access()))
        assert f"`ssh-keygen -R '[127.0.0.1]:{before.port}'`" in caught.value.hint
        assert "publickey" not in after.log


def test_a_hashed_known_hosts_is_understood(sshd: Sshd, isolated_home: Path) -> None:
    sshd.write_known_hosts(known(isolated_home), hashed=True)
    assert "127.0.0.1" not in known(isolated_home).read_text()
    assert answers(SshHost(sshd.access()))


def test_the_server_is_asked_for_the_kind_of_key_that_is_known(isolated_home: Path, tmp_path: Path) -> None:
    public = make_key(isolated_home / ".ssh" / "id_ed25519")
    with running_sshd(tmp_path / "two keys", [public], host_key_kinds=["ed25519", "ecdsa"]) as server:
        file = known(isolated_home)
        server.write_known_hosts(file)
        file.write_text("".join(line for line in file.read_text().splitlines(True) if "ecdsa" in line))
        assert answers(SshHost(server.access()))


def test_another_known_hosts_file_can_be_given(sshd: Sshd, tmp_path: Path) -> None:
    sshd.write_known_hosts(tmp_path / "mine")
    assert answers(SshHost(sshd.access(), tmp_path / "mine"))


def test_a_pinned_key_needs_no_known_hosts(sshd: Sshd) -> None:
    assert answers(SshHost(sshd.access(host_key=sshd.host_keys[0])))


def test_a_pinned_key_outweighs_known_hosts(sshd: Sshd, ssh_access: SshAccess) -> None:
    with pytest.raises(HostKeyRejected, match="not the pinned SHA256:"):
        answers(SshHost(sshd.access(host_key=corrupted(sshd.host_keys[0]))))
    assert answers(SshHost(ssh_access))
