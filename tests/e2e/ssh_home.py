"""A home folder for OpenSSH's own files, and whether a host answers."""

from __future__ import annotations

from pathlib import Path

from orchestrator.ssh.host import SshHost

MIB = 1 << 20


def answers(host: SshHost) -> bool:
    try:
        return host.run(["echo", "here"]).stdout == b"here\n"
    finally:
        host.close()


def known(home: Path) -> Path:
    return home / ".ssh" / "known_hosts"


def write_config(home: Path, text: str) -> Path:
    file = home / ".ssh" / "config"
    file.write_text(text)
    return file
