"""Is this the machine we mean? Host keys, known_hosts, and what to say when they disagree.

Always strict and never asking: a pinned key decides alone, otherwise the user's known_hosts files do. Everything is
decided before any authentication. Certificates (`@cert-authority`) are not used; such lines are passed over.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from orchestrator.host import HostKeyRejected
from orchestrator.ssh.config import Destination


@dataclass(frozen=True)
class HostKey:
    type: str
    """`ssh-ed25519`, `ssh-rsa`, `ecdsa-sha2-nistp256` …"""
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it: `SHA256:…`, base64 without padding."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    @classmethod
    def from_line(cls, line: str) -> HostKey:
        """An OpenSSH public key line, comment allowed. Raises ValueError when it is none."""
        fields = line.split()
        if len(fields) < 2:
            raise ValueError("a public key line has a type and a key")
        try:
            return cls(fields[0], base64.b64decode(fields[1], validate=True))
        except binascii.Error as error:
            raise ValueError(str(error)) from None


@dataclass(frozen=True)
class KnownKey:
    """A key that a known_hosts file holds for the host in question."""

    key: HostKey
    file: Path
    line: int
    revoked: bool = False
    fallback: bool = False
    """Held for the plain name of a host that answers on another port."""


class Verdict(Enum):
    ACCEPTED = "accepted"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"


def lookup_names(host_name: str, port: int, alias: str | None) -> tuple[str, ...]:
    """The names under which known_hosts may hold the host, the one to write first (sshd(8), SSH_KNOWN_HOSTS)."""
    if alias is not None:
        return (alias.lower(),)
    plain = host_name.lower()
    return (plain,) if port == 22 else (f"[{plain}]:{port}", plain)


def known_keys(files: Iterable[Path], names: Sequence[str]) -> tuple[KnownKey, ...]:
    """The keys held under the first of `names` that has any; missing and unreadable files hold none."""
    lines = [entry for file in files for entry in _lines(file)]
    for name in names:
        found = tuple(
            KnownKey(key, file, number, revoked, fallback=name != names[0])
            for file, number, patterns, key, revoked in lines
            if _matches(patterns, name)
        )
        if found:
            return found
    return ()


def judge(shown: HostKey, known: Sequence[KnownKey]) -> Verdict:
    """A key of another type than the known ones counts as changed: we asked the server for the known types first.

    A fallback can accept a key but, as in OpenSSH, not contradict one: another server may listen on port 22.
    """
    if any(entry.revoked and entry.key.blob == shown.blob for entry in known):
        return Verdict.REVOKED
    valid = [entry for entry in known if not entry.revoked]
    if any(entry.key.blob == shown.blob for entry in valid):
        return Verdict.ACCEPTED
    return Verdict.CHANGED if any(not entry.fallback for entry in valid) else Verdict.UNKNOWN


def algorithms_for(types: Iterable[str], supported: Sequence[str]) -> tuple[str, ...]:
    """`supported` signature algorithms, those of the known key types first: the server follows our order."""
    wanted = set(types)
    if "ssh-rsa" in wanted:  # RSA keys sign with SHA-2 under these names (RFC 8332)
        wanted |= {"rsa-sha2-512", "rsa-sha2-256"}
    return tuple(sorted(supported, key=lambda name: name not in wanted))


def expected_keys(destination: Destination, pinned: str | None) -> tuple[KnownKey, ...]:
    """What the host may show. Raises HostKeyRejected when the pinned line is no key."""
    if pinned is None:
        names = lookup_names(destination.host_name, destination.port, destination.host_key_alias)
        return known_keys(destination.known_hosts, names)
    try:
        return (KnownKey(HostKey.from_line(pinned), Path("pinned"), 0),)
    except ValueError:
        raise HostKeyRejected(
            f"the host key pinned for {destination.given} is no OpenSSH public key line",
            "it looks like `ssh-ed25519 AAAA…`",
        ) from None


def check(shown: HostKey, expected: Sequence[KnownKey], destination: Destination, *, pinned: bool) -> None:
    """Raises HostKeyRejected, naming the fingerprint and the way out, unless `shown` is among `expected`."""
    verdict = judge(shown, expected)
    if verdict is Verdict.ACCEPTED:
        return
    where, shows = destination.given, f"{shown.fingerprint} ({shown.type})"
    if pinned:
        raise HostKeyRejected(
            f"{where} shows the host key {shows}, and not the pinned {expected[0].key.fingerprint}",
            "something else answers at this address: `cloudbooth down RUN` gives the machine back",
        )
    name = lookup_names(destination.host_name, destination.port, destination.host_key_alias)[0]
    if verdict is Verdict.UNKNOWN:
        raise HostKeyRejected(
            f"the host key of {where} is unknown: {shows}",
            f"compare the fingerprint with the machine's own, then `{_learn_command(destination, shown)}`",
        )
    entry = next((e for e in expected if e.key.type == shown.type), expected[0])
    if verdict is Verdict.REVOKED:
        raise HostKeyRejected(
            f"the host key of {where}, {shows}, is marked @revoked in a known_hosts file",
            "the key must not be trusted: ask whoever runs the machine",
        )
    file = "" if entry.file == _user_default(destination) else f" -f {shlex.quote(str(entry.file))}"
    raise HostKeyRejected(
        f"the host key of {where} has changed: it shows {shows}, "
        f"but line {entry.line} of {entry.file} holds {entry.key.fingerprint} ({entry.key.type})",
        "if the machine was reinstalled, forget the old key with "
        f"`ssh-keygen -R {shlex.quote(name)}{file}`; otherwise do not connect",
    )


def _learn_command(destination: Destination, shown: HostKey) -> str:
    if destination.proxy_argv is not None or destination.host_key_alias is not None:
        return f"ssh {destination.given} true"  # ssh-keyscan knows neither jumps nor aliases
    scan = {"ssh-rsa": "rsa", "ssh-ed25519": "ed25519"}.get(shown.type, "ecdsa")
    port = "" if destination.port == 22 else f"-p {destination.port} "
    file = destination.known_hosts[0] if destination.known_hosts else Path("~/.ssh/known_hosts")
    target = "~/.ssh/known_hosts" if file == _user_default(destination) else shlex.quote(str(file))
    return f"ssh-keyscan {port}-t {scan} {destination.host_name} >> {target}"


def _user_default(destination: Destination) -> Path | None:
    """The user's usual file, if it is the one in use."""
    first = destination.known_hosts[0] if destination.known_hosts else None
    return first if first is not None and first.parts[-2:] == (".ssh", "known_hosts") else None


_Entry = tuple[Path, int, str, HostKey, bool]


def _lines(file: Path) -> list[_Entry]:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    entries: list[_Entry] = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or marker not in ("", "@revoked"):
            continue
        try:
            key = HostKey.from_line(" ".join(fields[1:3]))
        except ValueError:
            continue  # OpenSSH passes over broken lines too
        entries.append((file, number, fields[0], key, marker == "@revoked"))
    return entries


def _matches(patterns: str, name: str) -> bool:
    """A hashed name, or a comma list of names with `*` and `?`, where one `!pattern` that fits excludes the line."""
    if patterns.startswith("|1|"):
        return _matches_hash(patterns, name)
    hit = False
    for pattern in patterns.lower().split(","):
        # fnmatch would read `[host]:port` as a character class
        glob = pattern.lstrip("!").replace("[", "[[]")
        if fnmatch.fnmatchcase(name, glob):
            if pattern.startswith("!"):
                return False
            hit = True
    return hit


def _matches_hash(hashed: str, name: str) -> bool:
    try:
        _, _, salt, digest = hashed.split("|")
        expected = base64.b64decode(digest)
        return hmac.compare_digest(hmac.digest(base64.b64decode(salt), name.encode(), "sha1"), expected)
    except (ValueError, binascii.Error):
        return False
