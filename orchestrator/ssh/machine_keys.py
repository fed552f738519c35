"""The two key pairs of one rented machine: who may log in there, and by what it is recognized.

Made on the laptop before the machine exists. The public half of the one and the private half of the other travel in
the boot plan, so that the very first connection already knows whom it talks to. They are good for this machine only
and are removed once its absence is confirmed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from orchestrator.whole_file import sync_folder
from providers.secret import Secret

_IDENTITY = "identity"
_HOST = "host"


@dataclass(frozen=True)
class MachineKeys:
    identity_file: Path
    """Private key in OpenSSH's format, readable by its owner alone; the public half lies beside it as `.pub`."""
    authorized_key: str
    """The public half of `identity_file`, one line without its end."""
    host_key: str
    """What the machine has to show, one public key line without its end."""
    host_key_private: Secret
    """What its sshd needs for that: OpenSSH's format, several lines."""


def make_machine_keys(folder: Path, tag: str) -> MachineKeys:
    """The keys of the machine `tag`, made if they are not there; on the disk when this returns. Twice is safe.

    Raises OSError when the folder cannot be written.
    """
    known = read_machine_keys(folder, tag)
    if known is not None:
        return known
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = Path(tempfile.mkdtemp(dir=folder, prefix=".", suffix=".part"))
    try:
        for name in (_IDENTITY, _HOST):
            private, public = _generate(f"{tag} {name}")
            _write(partial / name, private)
            _write(partial / f"{name}.pub", public)
        sync_folder(partial)
        partial.rename(folder / tag)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync_folder(folder)
    made = read_machine_keys(folder, tag)
    assert made is not None
    return made


def read_machine_keys(folder: Path, tag: str) -> MachineKeys | None:
    """None when there are none: the machine is not rented, or its absence is confirmed."""
    keys = folder / tag
    try:
        return MachineKeys(
            keys / _IDENTITY,
            (keys / f"{_IDENTITY}.pub").read_text("ascii").strip(),
            (keys / f"{_HOST}.pub").read_text("ascii").strip(),
            Secret((keys / _HOST).read_text("ascii"), f"host key of {tag}"),
        )
    except FileNotFoundError:
        return None


def forget_machine_keys(folder: Path, tag: str) -> None:
    """For a machine that is confirmed to be absent. Twice is safe."""
    shutil.rmtree(folder / tag, ignore_errors=True)


def _generate(comment: str) -> tuple[bytes, bytes]:
    """A new ed25519 pair: private key and public key line, as ssh-keygen writes them."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public + b" " + comment.encode() + b"\n"


def _write(path: Path, content: bytes) -> None:
    """Durable, and never readable by others, not even for an instant."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
