"""From what the user wrote to where we connect."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.host import HostUnreachable
from orchestrator.ssh.config import Destination, expand_tokens, jump_argv, parse_ssh_g, resolve
from providers.api import SshAccess

ANSWER = """\
host gpu-box
user me
hostname gpu.example.com
port 2200
identitiesonly yes
identityfile ~/.ssh/id_box
identityfile ~/.ssh/second key
identityagent /run/agent.sock
globalknownhostsfile /etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2
userknownhostsfile /home/me/a b /home/me/.ssh/known_hosts
hostkeyalias the-box
proxyjump one,two:2222
stricthostkeychecking false
"""


def without_openssh(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": ""}


def resolved(home: Path, config: str, access: SshAccess) -> Destination:
    """By paramiko's reader, which needs no client on this machine."""
    (home / ".ssh").mkdir(exist_ok=True)
    (home / ".ssh" / "config").write_text(config)
    return resolve(access, environ=without_openssh(home))


def test_the_answer_of_ssh_g_is_read() -> None:
    settings = parse_ssh_g(ANSWER)
    assert (settings.host_name, settings.port, settings.user) == ("gpu.example.com", 2200, "me")
    assert settings.identity_files == ("~/.ssh/id_box", "~/.ssh/second key")
    assert settings.identities_only
    assert settings.identity_agent == "/run/agent.sock"
    assert settings.host_key_alias == "the-box"
    assert settings.proxy_jump == "one,two:2222"
    assert settings.proxy_command is None


def test_known_hosts_paths_may_hold_spaces() -> None:
    assert parse_ssh_g(ANSWER).user_known_hosts == ("/home/me/a b", "/home/me/.ssh/known_hosts")


@pytest.mark.parametrize(
    "keyword", ["proxyjump", "proxycommand", "hostkeyalias", "identityagent", "userknownhostsfile"]
)
def test_none_means_that_there_is_none(keyword: str) -> None:
    settings = parse_ssh_g(f"hostname h\nuser u\nport 22\n{keyword} none\n")
    assert settings.proxy_jump is settings.proxy_command is settings.host_key_alias is None
    assert settings.user_known_hosts == ()
    assert settings.identity_agent == (None if keyword == "identityagent" else "SSH_AUTH_SOCK")


def test_tokens_are_replaced_and_unknown_ones_kept() -> None:
    assert expand_tokens("nc %h %p %% %Z %%h", {"h": "box", "p": "22"}) == "nc box 22 % %Z %h"


def test_the_last_jump_forwards_and_the_others_lead_to_it() -> None:
    argv = jump_argv("a@one:2222, two", "gpu-box", 22, ["-F", "c"])
    assert argv == ("ssh", "-F", "c", "-J", "a@one:2222", "-W", "[gpu-box]:22", "--", "ssh://two")


def test_without_openssh_an_alias_is_still_resolved(isolated_home: Path) -> None:
    config = "Host gpu-box\n  HostName 10.0.0.7\n  Port 2200\n  User me\n  IdentityFile ~/.ssh/id_box\n"
    found = resolved(isolated_home, config, SshAccess("gpu-box"))
    assert (found.host_name, found.port, found.user) == ("10.0.0.7", 2200, "me")
    assert found.identity_files == (isolated_home / ".ssh" / "id_box",)
    assert found.known_hosts[0] == isolated_home / ".ssh" / "known_hosts"


def test_what_the_access_says_wins_over_the_config(isolated_home: Path) -> None:
    found = resolved(isolated_home, "Host *\n  Port 2200\n  User me\n", SshAccess("you@box", port=22))
    assert (found.user, found.port, found.given) == ("you", 22, "you@box")


def test_a_proxy_command_gets_the_resolved_host(isolated_home: Path) -> None:
    config = "Host box\n  HostName 10.0.0.7\n  ProxyCommand relay --to %h:%p\n"
    found = resolved(isolated_home, config, SshAccess("box"))
    assert found.proxy_argv == ("/bin/sh", "-c", "exec relay --to 10.0.0.7:22")


def test_a_jump_is_as_strict_as_we_are_and_never_asks(isolated_home: Path) -> None:
    found = resolved(isolated_home, "Host box\n  ProxyJump gate\n", SshAccess("box"))
    assert found.proxy_argv is not None
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes"} <= set(found.proxy_argv)


def test_a_config_cannot_lead_to_a_name_that_is_a_command(isolated_home: Path) -> None:
    with pytest.raises(HostUnreachable, match="no host or user name"):
        resolved(isolated_home, "Host box\n  HostName $(id)\n", SshAccess("box"))


def test_given_known_hosts_replace_all_others(isolated_home: Path, tmp_path: Path) -> None:
    found = resolve(SshAccess("box"), known_hosts=tmp_path / "k", environ=without_openssh(isolated_home))
    assert found.known_hosts == (tmp_path / "k",)


def test_the_agent_is_the_one_of_the_environment(isolated_home: Path) -> None:
    environ = {**without_openssh(isolated_home), "SSH_AUTH_SOCK": "/run/a.sock"}
    assert resolve(SshAccess("box"), environ=environ).agent_socket == "/run/a.sock"
    assert resolve(SshAccess("box"), environ=without_openssh(isolated_home)).agent_socket is None
