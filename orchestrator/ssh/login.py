"""Which keys are shown to a host, and what is said when it takes none of them.

Like OpenSSH: the identity that was named, then the agent's keys, then the identity files of ssh_config; encrypted
files only through the agent, for nobody is there to type a passphrase.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko  # type: ignore[import-untyped]
from paramiko.agent import AgentSSH  # type: ignore[import-untyped]

from orchestrator.host import HostUnreachable, LoginRefused
from orchestrator.ssh.config import Destination

AGENT_TIMEOUT_S = 30.0
"""An agent may ask its user to confirm a signature."""


@dataclass(frozen=True)
class Candidate:
    name: str
    """For people: a path, or `agent: comment`."""
    key: Any
    """A paramiko PKey."""


@dataclass
class Attempts:
    """What was tried, for the message when all of it failed."""

    refused: list[str] = field(default_factory=list)
    encrypted: list[Path] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    """Methods that the server says it accepts."""


def log_in(transport: Any, destination: Destination) -> None:
    """Authenticates a transport whose host key has been checked.

    Raises LoginRefused naming the keys it tried, HostUnreachable when the connection ended instead of an answer.
    """
    attempts = Attempts()
    with _agent_keys(destination.agent_socket) as agent_keys:
        for candidate in _candidates(destination, agent_keys, attempts):
            if _try_key(transport, destination.user, candidate, attempts):
                return
            if not transport.is_active():
                if len(attempts.refused) < 2:
                    raise HostUnreachable(
                        f"{destination.given} hung up during the login", f"{destination.ssh_command} true"
                    )
                raise _refusal(destination, attempts, hung_up=True)  # MaxAuthTries reached
    # Some servers let in without a key (a VPN has settled who we are); the others say what they would take.
    try:
        transport.auth_none(destination.user)
    except paramiko.BadAuthenticationType as error:
        attempts.allowed = list(error.allowed_types)
    except (paramiko.SSHException, EOFError, OSError):
        pass
    if not transport.is_authenticated():
        raise _refusal(destination, attempts, hung_up=False)


def is_encrypted(private_key: bytes) -> bool:
    """Whether a private key file (OpenSSH's own format, or PEM) needs a passphrase."""
    begin, end = b"-----BEGIN OPENSSH PRIVATE KEY-----", b"-----END OPENSSH PRIVATE KEY-----"
    if begin not in private_key:
        return b"ENCRYPTED" in private_key
    try:
        body = base64.b64decode(private_key.split(begin)[1].split(end)[0])
    except binascii.Error:
        return False
    magic = b"openssh-key-v1\0"  # followed by the cipher's name as an SSH string (PROTOCOL.key)
    return body.startswith(magic) and body[len(magic) + 4 : len(magic) + 8] != b"none"


def _try_key(transport: Any, user: str, candidate: Candidate, attempts: Attempts) -> bool:
    try:
        further = transport.auth_publickey(user, candidate.key)
    except paramiko.BadAuthenticationType as error:
        attempts.allowed = list(error.allowed_types)
    except (paramiko.SSHException, EOFError, OSError):
        pass
    else:
        if not further and transport.is_authenticated():
            return True
        attempts.allowed = list(further)
    attempts.refused.append(candidate.name)
    return False


def _survive_refusal(key: Any, attempts: Attempts) -> None:
    """An agent may decline to sign (its user said no, the security key is not plugged in).

    Paramiko signs in the connection's own thread, where an exception ends the connection. An empty signature instead
    is refused by the server like any wrong key, and the next key gets its turn.
    """
    sign = key.sign_ssh_data

    def sign_or_fail(data: bytes, algorithm: str | None = None) -> bytes:
        try:
            return bytes(sign(data, algorithm))
        except (paramiko.SSHException, OSError):
            attempts.unusable.append(f"agent: {key.comment or key.get_name()} (the agent would not sign)")
            empty = paramiko.Message()
            empty.add_string(algorithm or key.get_name())
            empty.add_string(b"")
            return bytes(empty.asbytes())

    key.sign_ssh_data = sign_or_fail


def _candidates(destination: Destination, agent_keys: Sequence[Any], attempts: Attempts) -> Iterator[Candidate]:
    files = [destination.explicit_identity] if destination.explicit_identity else []
    files += [file for file in destination.identity_files if file not in files]
    in_agent = {bytes(key.asbytes()): key for key in agent_keys}
    named = [blob for blob in map(_public_blob, files) if blob is not None]
    shown: set[bytes] = set()

    def from_agent(blob: bytes) -> Candidate:
        key = in_agent[blob]
        return Candidate(f"agent: {key.comment or key.get_name()}", key)

    for key in agent_keys:
        _survive_refusal(key, attempts)

    if destination.explicit_identity is not None:
        for candidate in _from_file(destination.explicit_identity, in_agent, attempts):
            shown.add(bytes(candidate.key.asbytes()))
            yield candidate
    for blob in sorted(in_agent, key=lambda blob: blob not in named):
        if blob not in shown and (blob in named or not destination.identities_only):
            shown.add(blob)
            yield from_agent(blob)
    for file in files:
        if file == destination.explicit_identity:
            continue
        for candidate in _from_file(file, in_agent, attempts):
            if bytes(candidate.key.asbytes()) not in shown:
                shown.add(bytes(candidate.key.asbytes()))
                yield candidate


def _from_file(file: Path, in_agent: dict[bytes, Any], attempts: Attempts) -> Iterator[Candidate]:
    """The key of an identity file, by way of the agent where the file is encrypted or only its public half is here."""
    blob = _public_blob(file)
    held = in_agent.get(blob) if blob is not None else None
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        if held is not None:
            yield Candidate(f"agent: {file}", held)
        return
    except OSError as error:
        attempts.unusable.append(f"{file} ({error.strerror})")
        return
    if is_encrypted(text):
        if held is not None:
            yield Candidate(f"agent: {file}", held)
        else:
            attempts.encrypted.append(file)
        return
    try:
        key = paramiko.PKey.from_path(file)
    except Exception as error:  # cryptography and paramiko raise half a dozen kinds for a broken file
        attempts.unusable.append(f"{file} ({type(error).__name__}: no private key that can be used)")
        return
    yield Candidate(str(file), key)


def _public_blob(file: Path) -> bytes | None:
    """The public half that lies beside a private key as `.pub`."""
    try:
        fields = Path(f"{file}.pub").read_text(errors="replace").split()
        return base64.b64decode(fields[1])
    except (OSError, IndexError, binascii.Error):
        return None


@contextlib.contextmanager
def _agent_keys(path: str | None) -> Iterator[Sequence[Any]]:
    """The agent's keys; none when there is no agent. They sign through the connection, which ends with the context."""
    agent: Any = None
    with contextlib.suppress(OSError, paramiko.SSHException):
        if path is None or not hasattr(socket, "AF_UNIX"):
            agent = paramiko.Agent() if path is not None else None
        else:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(AGENT_TIMEOUT_S)
            # paramiko.Agent only knows $SSH_AUTH_SOCK; ssh_config's IdentityAgent may name another socket.
            agent = AgentSSH()
            agent._conn = connection
            connection.connect(path)
            agent._connect(connection)
    try:
        yield () if agent is None else agent.get_keys()
    finally:
        if agent is not None:
            agent._close()


def _refusal(destination: Destination, attempts: Attempts, *, hung_up: bool) -> LoginRefused:
    tried = ", ".join(attempts.refused) or "no key: there is none to try"
    message = f"{destination.given} refused the login of {destination.user}; tried {tried}"
    if attempts.unusable:
        message += f"; could not use {', '.join(attempts.unusable)}"
    if attempts.encrypted:
        message += f"; {', '.join(map(str, attempts.encrypted))} needs a passphrase and no agent holds it"
        return LoginRefused(message, f"ssh-add {attempts.encrypted[0]}")
    if hung_up and len(attempts.refused) > 1:
        return LoginRefused(
            f"{message}, after which the server hung up",
            "name one key: `identity_file` under [compute.ssh], with `IdentitiesOnly yes` in ~/.ssh/config",
        )
    if attempts.allowed and "publickey" not in attempts.allowed:
        message += f"; the server only takes {', '.join(attempts.allowed)}"
    port = "" if destination.port == 22 else f"-p {destination.port} "
    identity = f"-i {destination.explicit_identity} " if destination.explicit_identity else ""
    if not attempts.refused:
        return LoginRefused(
            message, f"ssh-keygen -t ed25519, then ssh-copy-id {port}{destination.user}@{destination.host_name}"
        )
    return LoginRefused(message, f"ssh-copy-id {identity}{port}{destination.user}@{destination.host_name}")
