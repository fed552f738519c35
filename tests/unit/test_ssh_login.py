"""Telling encrypted private keys from plain ones without a passphrase."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from orchestrator.ssh.login import is_encrypted
from tests.fakes.sshd import make_key


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
@pytest.mark.parametrize("passphrase", ["", "secret words"])
def test_openssh_keys_say_whether_they_are_encrypted(tmp_path: Path, kind: str, passphrase: str) -> None:
    make_key(tmp_path / "key", kind, passphrase)
    assert is_encrypted((tmp_path / "key").read_bytes()) == bool(passphrase)


@pytest.mark.parametrize("passphrase", ["", "secret words"])
def test_pem_keys_say_whether_they_are_encrypted(tmp_path: Path, passphrase: str) -> None:
    argv = ["ssh-keygen", "-q", "-t", "ecdsa", "-m", "PEM", "-N", passphrase, "-f", str(tmp_path / "key")]
    subprocess.run(argv, check=True, capture_output=True)
    assert is_encrypted((tmp_path / "key").read_bytes()) == bool(passphrase)


def test_what_is_no_key_is_not_encrypted() -> None:
    assert not is_encrypted(b"hello")
    assert not is_encrypted(b"-----BEGIN OPENSSH PRIVATE KEY-----\n!\n-----END OPENSSH PRIVATE KEY-----\n")
