"""A real OpenSSH server on loopback, run by the test's own user, with its own home folder and keys.

Nothing is faked but the home: logins land in `Sshd.home` instead of the user's. The server answers on a port of its
own, so that known_hosts holds it as `[127.0.0.1]:port`.
"""

from __future__ import annotations

import base64
import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from providers.api import SshAccess

START_DEADLINE_S = 120.0


def sshd_binary() -> str | None:
    """The server's absolute path (it refuses to be started by a relative one), or None."""
    return shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def make_key(file: Path, kind: str = "ed25519", passphrase: str = "") -> str:
    """Writes a key pair to `file` and `file.pub`; returns the public line."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in (file, Path(f"{file}.pub")):
        old.unlink(missing_ok=True)
    # -a 1: one round of key derivation, or the encrypted ones take a second
    argv = ["ssh-keygen", "-q", "-t", kind, "-a", "1", "-N", passphrase, "-C", "test key", "-f", str(file)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return Path(f"{file}.pub").read_text().strip()


@dataclass
class Sshd:
    folder: Path
    port: int
    host_keys: tuple[str, ...]
    """Public key lines, without comment."""
    process: subprocess.Popen[bytes]
    address: str = "127.0.0.1"
    prefix: Sequence[str] = ()
    """Of the command that starts the server: it may have to run in another network namespace."""

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def authorized_keys(self) -> Path:
        return self.folder / "authorized_keys"

    @property
    def log(self) -> str:
        return (self.folder / "sshd.log").read_text(errors="replace")

    def access(
        self, *, identity_file: Path | None = None, host: str | None = None, host_key: str | None = None
    ) -> SshAccess:
        return SshAccess(
            host=host or self.address,
            port=self.port,
            user=getpass.getuser(),
            identity_file=None if identity_file is None else str(identity_file),
            python=sys.executable,
            workdir=str(self.home / "cloudbooth"),
            host_key=host_key,
        )

    def write_known_hosts(self, file: Path, *, hashed: bool = False) -> None:
        """What a user has after the first `ssh` to this server."""
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines = [f"[{self.address}]:{self.port} {key}" for key in self.host_keys]
        file.write_text("# known\n" + "\n".join(lines) + "\n")
        if hashed:
            subprocess.run(["ssh-keygen", "-H", "-f", str(file)], check=True, capture_output=True)
            Path(f"{file}.old").unlink()

    def go_away(self) -> None:
        """Ends the server with its connections, as a reboot would; processes detached from a login live on."""
        for _ in range(3):  # as root, a connection is two processes, and the second may be forked meanwhile
            if not self.kill_connections():
                break
        self.process.terminate()
        self.process.wait()

    def come_back(self) -> None:
        """The same server again: same port, same host keys. Returns when it answers."""
        self.process = _start_server(self.folder, self.prefix)
        _await_banner(self)

    def kill_connections(self) -> int:
        """Kills this server's processes that carry connections, and only these; returns how many there were."""
        pids = [pid for pid in _descendants(self.process.pid) if _name(pid).startswith("sshd")]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def connections(self) -> int:
        """How many stand now. Raises FileNotFoundError where there is no /proc."""
        tables = (Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()).splitlines()
        rows = (line.split() for line in tables if ":" in line)
        return sum(row[1].endswith(f":{self.port:04X}") and row[3] == "01" for row in rows)

    def processor_s(self) -> float:
        """What the server, its connections and their commands have used, those that ended included."""
        ticks = 0
        for pid in (self.process.pid, *_descendants(self.process.pid)):
            with contextlib.suppress(OSError):  # it has ended: its parent counts it now
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))  # user, system, and both of the children it has waited for
        return ticks / os.sysconf("SC_CLK_TCK")

    def freeze_connections(self) -> list[int]:
        """Stops the processes that carry connections: the link stays up and says nothing. Thaw with SIGKILL."""
        pids = [pid for pid in _descendants(self.process.pid) if _name(pid).startswith("sshd")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        return pids


@contextlib.contextmanager
def running_sshd(
    folder: Path,
    authorized: Sequence[str] = (),
    *,
    host_key_kinds: Sequence[str] = ("ed25519",),
    port: int | None = None,
    environ: Mapping[str, str] | None = None,
    address: str = "127.0.0.1",
    prefix: Sequence[str] = (),
) -> Iterator[Sshd]:
    """A server that lets in the `authorized` public keys. Give the `port` of an ended one to take its place.

    `environ` is what its logins find set, besides HOME; values must not hold quotes.

    Its connections are killed with it; commands they started end by the end of their input.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "home").mkdir(exist_ok=True)
    (folder / "authorized_keys").write_text("".join(f"{line}\n" for line in authorized))
    keys = [make_key(folder / f"host_{kind}", kind) for kind in host_key_kinds]
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # privilege separation needs it; packages leave it to boot
    chosen = port or _free_port()
    config = folder / "sshd_config"
    config.write_text(_config(folder, address, chosen, host_key_kinds, environ or {}))
    public = tuple(" ".join(key.split()[:2]) for key in keys)
    server = Sshd(folder, chosen, public, _start_server(folder, prefix), address, prefix)
    try:
        _await_banner(server)
        yield server
    finally:
        server.go_away()


@contextlib.contextmanager
def running_agent(folder: Path, keys: Sequence[Path] = (), *, willing: bool = True) -> Iterator[str]:
    """A real ssh-agent holding `keys` (unencrypted ones); yields the path of its socket.

    An unwilling one shows its keys and declines to sign: it would have to ask, and has no terminal to ask at.
    """
    socket_path = folder / "agent"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(socket_path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "SSH_ASKPASS": "/bin/false", "SSH_ASKPASS_REQUIRE": "force"},
    )
    try:
        deadline = time.monotonic() + START_DEADLINE_S
        while not socket_path.exists():
            assert time.monotonic() < deadline, "ssh-agent did not start"
            time.sleep(0.005)
        environ = {**os.environ, "SSH_AUTH_SOCK": str(socket_path)}
        for key in keys:
            confirm = [] if willing else ["-c"]
            subprocess.run(["ssh-add", "-q", *confirm, str(key)], check=True, capture_output=True, env=environ)
        yield str(socket_path)
    finally:
        process.terminate()
        process.wait()


def corrupted(public_line: str) -> str:
    """A well-formed key line that is not this key."""
    kind, blob = public_line.split()[:2]
    raw = bytearray(base64.b64decode(blob))
    raw[-1] ^= 1
    return f"{kind} {base64.b64encode(raw).decode()}"


def _start_server(folder: Path, prefix: Sequence[str]) -> subprocess.Popen[bytes]:
    binary = sshd_binary()
    assert binary is not None, "ask sshd_binary() first"
    with (folder / "sshd.log").open("ab") as log:
        return subprocess.Popen(
            [*prefix, binary, "-D", "-e", "-f", str(folder / "sshd_config")], stdin=subprocess.DEVNULL, stderr=log
        )


def _config(folder: Path, address: str, port: int, host_key_kinds: Sequence[str], environ: Mapping[str, str]) -> str:
    host_keys = "".join(f'HostKey "{folder}/host_{kind}"\n' for kind in host_key_kinds)
    # sshd heeds the first SetEnv line only
    set_env = " ".join(f'"{name}={value}"' for name, value in {"HOME": folder / "home", **environ}.items())
    return f"""{host_keys}ListenAddress {address}
Port {port}
PidFile "{folder}/sshd.pid"
AuthorizedKeysFile "{folder}/authorized_keys"
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
UseDNS no
MaxStartups 100
PrintMotd no
LogLevel VERBOSE
Subsystem sftp {_sftp_server()}
SetEnv {set_env}
ForceCommand cd && exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"
"""


def _sftp_server() -> str:
    """The program: the built-in one does not go with a forced command."""
    places = ("/usr/lib/openssh", "/usr/libexec/openssh", "/usr/lib/ssh", "/usr/libexec")
    return next((found for place in places if Path(found := f"{place}/sftp-server").exists()), "internal-sftp")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_banner(server: Sshd) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection((server.address, server.port), 1.0) as probe:
            if probe.recv(4) == b"SSH-":
                return
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"sshd did not start:\n{server.log}")
        time.sleep(0.005)


def _descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], check=True, capture_output=True, text=True)
    for line in listing.stdout.splitlines():
        child, parent = line.split()
        parents[int(child)] = int(parent)
    found, frontier = [], {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found += sorted(frontier)
    return found


def _name(pid: int) -> str:
    listing = subprocess.run(["ps", "-p", str(pid), "-o", "comm="], check=False, capture_output=True, text=True)
    return listing.stdout.strip().rpartition("/")[2]
