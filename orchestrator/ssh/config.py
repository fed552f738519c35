"""Where a name leads: `SshAccess` plus the user's ssh_config → `Destination`.

OpenSSH itself is asked (`ssh -G`), because only it understands `Include` and `Match`; where its client is missing,
paramiko's smaller reader takes over. `StrictHostKeyChecking` is ignored: we are always strict.

OpenSSH takes the home folder from the password database. Where `$HOME` says otherwise, so do we: the config is then
`$HOME/.ssh/config` alone, and what `ssh -G` places in the other `~/.ssh` is looked for in ours.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.host import HostUnreachable, LoginRefused
from orchestrator.operating_system import account_home
from providers.api import SshAccess

CONFIG_VARIABLE = "CLOUDBOOTH_SSH_CONFIG"
"""Environment variable: read this ssh_config instead of the user's and the system's."""

_DEFAULT_IDENTITIES = ("~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519")
_DEFAULT_USER_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_DEFAULT_GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")


@dataclass(frozen=True)
class Settings:
    """What ssh_config says about one host: paths and tokens as written, "none" already turned into None."""

    host_name: str
    port: int
    user: str
    identity_files: tuple[str, ...] = _DEFAULT_IDENTITIES
    identities_only: bool = False
    identity_agent: str | None = "SSH_AUTH_SOCK"
    """A socket's path, `SSH_AUTH_SOCK`, `$VARIABLE`, or None: ask no agent."""
    proxy_jump: str | None = None
    proxy_command: str | None = None
    user_known_hosts: tuple[str, ...] = _DEFAULT_USER_KNOWN_HOSTS
    global_known_hosts: tuple[str, ...] = _DEFAULT_GLOBAL_KNOWN_HOSTS
    host_key_alias: str | None = None


@dataclass(frozen=True)
class Destination:
    """Everything that is needed to connect, with every path and token expanded."""

    given: str
    """As the user wrote it, for people: `me@gpu-box`."""
    host_name: str
    port: int
    user: str
    explicit_identity: Path | None
    identity_files: tuple[Path, ...]
    identities_only: bool
    agent_socket: str | None
    proxy_argv: tuple[str, ...] | None
    """A command whose stdin and stdout are the connection; None: plain TCP."""
    known_hosts: tuple[Path, ...]
    """Files to look the host's key up in; the first is the one a new key belongs into."""
    host_key_alias: str | None

    @property
    def ssh_command(self) -> str:
        """What a person types to try the same."""
        port = "" if self.port == 22 else f"-p {self.port} "
        return f"ssh {port}{self.user}@{self.host_name}"


def resolve(
    access: SshAccess,
    *,
    known_hosts: Path | None = None,
    config_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Destination:
    """Resolves alias, port, keys and proxy. Runs `ssh -G` (about 10 ms), opens no connection.

    `known_hosts` replaces the files that ssh_config names; `config_file` wins over `$CLOUDBOOTH_SSH_CONFIG`.
    Raises HostUnreachable for a host name or config that OpenSSH refuses, LoginRefused when the identity file that
    `access` names does not exist.
    """
    environ = os.environ if environ is None else environ
    home = Path(environ.get("HOME") or Path.home())
    identity = None if access.identity_file is None else _existing_identity(access.identity_file, home)
    config = _config_argument(config_file, environ, home)
    user, host = _split_user(access)
    _refuse_unsafe(host)
    _refuse_unsafe(user or "")
    client = shutil.which("ssh", path=environ.get("PATH"))
    if client is None:
        settings = _read_with_paramiko(host, user, access.port, config, home)
    else:
        settings = parse_ssh_g(_ask_ssh(client, host, user, access.port, config))
    return _expand(settings, access, host, identity, known_hosts, config, environ, home)


def parse_ssh_g(text: str) -> Settings:
    """The answer of `ssh -G HOST`: one lower-case keyword and its value a line, identity files repeated."""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        keyword, _, value = line.strip().partition(" ")
        values.setdefault(keyword.lower(), []).append(value)

    def one(keyword: str) -> str | None:
        value = values.get(keyword, [""])[0]
        return None if value in ("", "none") else value

    agent = values.get("identityagent", ["SSH_AUTH_SOCK"])[0]
    user_files, global_files = one("userknownhostsfile"), one("globalknownhostsfile")
    return Settings(
        host_name=one("hostname") or "",
        port=int(one("port") or 22),
        user=one("user") or getpass.getuser(),
        identity_files=tuple(value for value in values.get("identityfile", []) if value != "none"),
        identities_only=one("identitiesonly") == "yes",
        identity_agent=None if agent == "none" else agent,
        proxy_jump=one("proxyjump"),
        proxy_command=one("proxycommand"),
        user_known_hosts=_split_paths(user_files or ""),
        global_known_hosts=_split_paths(global_files or ""),
        host_key_alias=one("hostkeyalias"),
    )


def expand_tokens(text: str, tokens: Mapping[str, str]) -> str:
    """OpenSSH's `%h`-style tokens; `%%` is a percent sign, unknown ones stay as they are."""
    return re.sub(r"%(.)", lambda match: {**tokens, "%": "%"}.get(match[1], match[0]), text)


def jump_argv(
    jumps: str, host_name: str, port: int, options: Sequence[str] = (), *, client: str = "ssh"
) -> tuple[str, ...]:
    """`ProxyJump a,b` as the command that OpenSSH would start for it: the last jump forwards to the target."""
    *before, last = [jump.strip() for jump in jumps.split(",")]
    destination = last if last.startswith("ssh://") else f"ssh://{last}"
    hops = ["-J", ",".join(before)] if before else []
    return (client, *options, *hops, "-W", f"[{host_name}]:{port}", "--", destination)


# ---- asking for the settings ---------------------------------------------------------------------------------------


def _config_argument(config_file: Path | None, environ: Mapping[str, str], home: Path) -> str | None:
    """The value for `ssh -F`; None lets OpenSSH read its usual files."""
    if config_file is not None:
        return str(config_file)
    if environ.get(CONFIG_VARIABLE):
        return environ[CONFIG_VARIABLE]
    if _is_real_home(home):
        return None
    own = home / ".ssh" / "config"
    return str(own) if own.exists() else "none"


def _ask_ssh(client: str, host: str, user: str | None, port: int | None, config: str | None) -> str:
    argv = [client, "-G"]
    argv += ["-F", config] if config is not None else []
    argv += ["-l", user] if user else []
    argv += ["-p", str(port)] if port is not None else []
    try:
        answer = subprocess.run(
            [*argv, "--", host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HostUnreachable(
            f"`ssh -G {host}` did not answer within 30 s", "look for a `Match exec` in ~/.ssh/config that hangs"
        ) from None
    if answer.returncode != 0:
        complaint = (answer.stderr.strip().splitlines() or ["no reason given"])[0]
        raise HostUnreachable(f"OpenSSH cannot resolve {host}: {complaint}", f"ssh -G {host}")
    return answer.stdout


def _read_with_paramiko(host: str, user: str | None, port: int | None, config: str | None, home: Path) -> Settings:
    import paramiko  # type: ignore[import-untyped]

    path = home / ".ssh" / "config" if config is None else Path(config)
    found: dict[str, object] = {}
    if config != "none" and path.exists():
        try:
            found = dict(paramiko.SSHConfig.from_path(str(path)).lookup(host))
        except paramiko.SSHException as error:
            raise HostUnreachable(f"{path} cannot be read: {error}", "install OpenSSH's client") from None

    def one(keyword: str) -> str | None:
        value = found.get(keyword)
        return value if isinstance(value, str) and value not in ("", "none") else None

    files = found.get("identityfile")
    return Settings(
        host_name=one("hostname") or host,
        port=port or int(one("port") or 22),
        user=user or one("user") or getpass.getuser(),
        identity_files=tuple(map(str, files)) if isinstance(files, list) else _DEFAULT_IDENTITIES,
        identities_only=one("identitiesonly") == "yes",
        identity_agent=None if found.get("identityagent") == "none" else one("identityagent") or "SSH_AUTH_SOCK",
        proxy_jump=one("proxyjump"),
        proxy_command=one("proxycommand"),
        user_known_hosts=_split_paths(one("userknownhostsfile") or " ".join(_DEFAULT_USER_KNOWN_HOSTS)),
        host_key_alias=one("hostkeyalias"),
    )


# ---- from settings to a destination --------------------------------------------------------------------------------


def _expand(
    settings: Settings,
    access: SshAccess,
    host: str,
    identity: Path | None,
    known_hosts: Path | None,
    config: str | None,
    environ: Mapping[str, str],
    home: Path,
) -> Destination:
    _refuse_unsafe(settings.host_name)
    tokens = {
        "h": settings.host_name, "p": str(settings.port), "r": settings.user, "n": host,
        "d": str(home), "u": getpass.getuser(), "k": settings.host_key_alias or host,
    }  # fmt: skip

    def path(text: str) -> Path:
        return _at_home(Path(expand_tokens(text, tokens)), home)

    files = [known_hosts] if known_hosts else [*map(path, settings.user_known_hosts)]
    files += [] if known_hosts else [*map(path, settings.global_known_hosts)]
    if settings.proxy_command is not None:
        # OpenSSH prefixes `exec` so that the shell does not linger between us and the proxy.
        proxy: tuple[str, ...] | None = ("/bin/sh", "-c", "exec " + expand_tokens(settings.proxy_command, tokens))
    elif settings.proxy_jump is not None:
        options = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ServerAliveInterval=15"]
        options += ["-F", config] if config is not None else []
        options += ["-i", str(identity)] if identity is not None else []
        if known_hosts is not None or not _is_real_home(home):
            options += ["-o", "UserKnownHostsFile=" + " ".join(f'"{file}"' for file in files)]
        proxy = jump_argv(settings.proxy_jump, settings.host_name, settings.port, options)
    else:
        proxy = None
    return Destination(
        given=access.host if access.user is None else f"{access.user}@{host}",
        host_name=settings.host_name,
        port=settings.port,
        user=settings.user,
        explicit_identity=identity,
        identity_files=tuple(path(text) for text in settings.identity_files),
        identities_only=settings.identities_only,
        agent_socket=_agent_socket(settings.identity_agent, environ, path),
        proxy_argv=proxy,
        known_hosts=tuple(files),
        host_key_alias=settings.host_key_alias,
    )


def _agent_socket(setting: str | None, environ: Mapping[str, str], path: Callable[[str], Path]) -> str | None:
    if setting is None:
        return None
    if setting == "SSH_AUTH_SOCK" or setting.startswith("$"):
        return environ.get(setting.removeprefix("$").strip("{}")) or None
    return str(path(setting))


def _existing_identity(given: str, home: Path) -> Path:
    file = _tilde(Path(given), home)
    if file.is_file():
        return file
    raise LoginRefused(
        f"identity file {given} does not exist",
        f"make one with `ssh-keygen -t ed25519 -f {given}`, or correct `identity_file` under [compute.ssh]",
    )


def _split_user(access: SshAccess) -> tuple[str | None, str]:
    user, at, host = access.host.rpartition("@")
    return access.user or (user if at else None), host


def _refuse_unsafe(name: str) -> None:
    """Names end up in a shell (ProxyCommand) and as arguments of ssh: what OpenSSH 9.6 refuses, we refuse."""
    if name.startswith("-") or re.search(r"[\s'\"`$\\;&<>|(){}\x00-\x1f]", name):
        raise HostUnreachable(f"{name!r} is no host or user name", "correct `host` under [compute.ssh]")


def _split_paths(value: str) -> tuple[str, ...]:
    """`ssh -G` prints lists of paths unquoted: a new one starts where white space precedes `/`, `~` or a drive."""
    return tuple(part for part in re.split(r"\s+(?=/|~|[A-Za-z]:\\)", value.strip()) if part and part != "none")


def _tilde(path: Path, home: Path) -> Path:
    return home.joinpath(*path.parts[1:]) if path.parts[:1] == ("~",) else path


def _at_home(path: Path, home: Path) -> Path:
    """Undoes OpenSSH's own expansion of `~` where `$HOME` is another folder."""
    real = account_home()
    if real is not None and real != home and path.is_relative_to(real / ".ssh"):
        return home / path.relative_to(real)
    return _tilde(path, home)


def _is_real_home(home: Path) -> bool:
    real = account_home()
    return real is None or real == home
