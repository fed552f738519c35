"""What a rented machine is in tests: a container with a real sshd in it, and a meter that runs beside it.

A pod has its own root (an overlay over this machine's, so that `/etc/ssh`, `/root`, `/start.sh` and all that is written
are its own), its own processes (none outlives it), its own `/dev/shm` (empty at every boot) and a volume that stays.
Only the network is shared: its sshd answers on a port of 127.0.0.1, another one at every boot. It takes root on Linux
and no container runtime; `why_no_pods` says what is missing.

The meter shares no code with the product: what it says is what a provider would bill.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.fakes.sshd import sshd_binary

START = "/start.sh"
"""The image's own start, as in RunPod's official images: keys, sshd, the environment in a file, then sleep."""
SSH_DEADLINE_S = 120.0

_START_SCRIPT = """#!/bin/sh
if [ -n "$PUBLIC_KEY" ]; then
    mkdir -p -m 700 ~/.ssh
    echo "$PUBLIC_KEY" >> ~/.ssh/authorized_keys
    chmod 600 ~/.ssh/authorized_keys
    for kind in ecdsa ed25519; do
        [ -f "/etc/ssh/ssh_host_${kind}_key" ] || ssh-keygen -q -t "$kind" -N '' -f "/etc/ssh/ssh_host_${kind}_key"
    done
    SSHD
fi
env | grep -E '^[A-Z_][A-Z0-9_]*=' | grep -v '^PUBLIC_KEY=' \\
    | sed 's/^\\([^=]*\\)=\\(.*\\)$/export \\1="\\2"/' > /etc/rp_environment
echo 'Start script(s) finished, Pod is ready to use.'
exec sleep infinity
"""

_SSHD_CONFIG = """ListenAddress 127.0.0.1
Port {port}
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
MaxStartups 100
PrintMotd no
Subsystem sftp internal-sftp
"""

# $1: the pod's folder, $2: where its volume is mounted, $3: the volume; the rest is what runs in it.
_ENTER = """set -e
folder=$1 volume=$2 source=$3
shift 3
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/disk,workdir=$folder/work" "$folder/root"
cd "$folder/root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmpfs dev/shm
[ -e etc/.pod ] || rm -rf root/.ssh etc/ssh/ssh_host_* ".$volume"
touch etc/.pod
mkdir -p ".$volume"
mount --bind "$source" ".$volume"
exec chroot . "$@"
"""


@cache
def why_no_pods() -> str:
    """Empty where pods can run, else the reason."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "pods need Linux and root"
    if sshd_binary() is None:
        return "OpenSSH's server is missing: apt-get install openssh-server"
    if shutil.which("unshare") is None:
        return "unshare is missing: apt-get install util-linux"
    trial = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "sh", "-ec", "d=$(mktemp -d); mount -t tmpfs tmpfs $d; cd $d;"
         "mkdir u w m; cd /; mount -t overlay overlay -o lowerdir=/,upperdir=$d/u,workdir=$d/w $d/m"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if trial.returncode == 0 else f"no mount of an overlay: {trial.stderr.strip()}"


@dataclass(frozen=True)
class Process:
    argv: tuple[str, ...]
    environ: Mapping[str, str]


@dataclass
class Pod:
    """One container. `boot` and `kill` any number of times; `volume` stays, the rest only if wished."""

    folder: Path
    volume_path: str = "/workspace"
    """Where `volume` is mounted inside."""
    network_volume: Path | None = None
    """Mounted there instead of a volume of its own; other pods may have it too."""
    exited: Callable[[], None] = field(default=lambda: None)
    """Called, in a thread of its own, when the main process ends by itself."""
    port: int = 0
    """Of the sshd, once it runs."""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def boot(
        self, argv: Sequence[str], env: Mapping[str, str], files: Mapping[str, str] | None = None, *, keep: bool = False
    ) -> None:
        """Starts `argv` as the container's main process with exactly `env` besides HOME and PATH, and returns.

        `files`, by absolute path, are put into the image first and are executable. The disk outside of the volume is
        new unless `keep`.
        """
        assert not self.runs, "the pod runs already"
        assert not why_no_pods(), why_no_pods()
        for name in ("disk", "work", "root"):
            if name == "disk" and not keep:
                shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.volume.mkdir(parents=True, exist_ok=True)
        self.port = _free_port()
        for path, text in {**_image(self.port), **(files or {})}.items():
            file = self.folder / "disk" / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o755)
        with (self.folder / "container.log").open("ab") as log:
            process = self._process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child",
                 "sh", "-c", _ENTER, "enter", str(self.folder), self.volume_path, str(self.volume), *argv],
                env={"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **env},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd="/", start_new_session=True,
            )  # fmt: skip
        threading.Thread(target=self._watch, args=(process,), daemon=True).start()

    def kill(self) -> None:
        """Ends every process of it at once, as a power cut would. They are gone when this returns. Twice is safe."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            self._kill_main_process(process)
            process.wait()

    def end_main_process(self) -> None:
        """The container ends by itself, as after a crash of its main process; `exited` follows."""
        assert self._process is not None
        self._kill_main_process(self._process)

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def volume(self) -> Path:
        return self.network_volume or self.folder / "volume"

    @property
    def disk(self) -> Path:
        """What has been written outside of the volume, as paths below this one; readable when the pod is gone."""
        return self.folder / "disk"

    @property
    def log(self) -> str:
        """What the main process and its children have said, over all boots."""
        file = self.folder / "container.log"
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
        return "".join(f"{line}\n" for line in lines if not line.startswith("unshare: "))

    def answers_ssh(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as probe:
            return probe.recv(4) == b"SSH-"
        return False

    def await_ssh(self) -> None:
        """Returns when the sshd answers; fails with the log after `SSH_DEADLINE_S`."""
        deadline = time.monotonic() + SSH_DEADLINE_S
        while not self.answers_ssh():
            assert time.monotonic() < deadline, f"no sshd in the pod:\n{self.log}"
            time.sleep(0.02)

    def processes(self) -> list[Process]:
        """Every living process of the pod with what others on that machine could read of it."""
        found = []
        for entry in self._process_folders():
            with contextlib.suppress(OSError):
                argv = (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
                pairs = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
                environ = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
                found.append(Process(tuple(argv), environ))
        return found

    def freeze(self, argument: str) -> None:
        """Stops the processes that were started with `argument`, for good: they stay where they are until its end."""
        for entry in self._process_folders():
            with contextlib.suppress(OSError):
                if argument.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGSTOP)

    def _process_folders(self) -> list[Path]:
        """Below /proc, as this machine counts them."""
        main = self._main_pid(self._process) if self._process is not None else None
        if main is None:
            return []
        own, found = os.stat(f"/proc/{main}/ns/pid").st_ino, []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.stat(entry / "ns" / "pid").st_ino == own:
                    found.append(entry)
        return found

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        if self._process is process:
            self.exited()

    def _kill_main_process(self, process: subprocess.Popen[bytes]) -> None:
        main = self._main_pid(process)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid if main is None else main, signal.SIGKILL)

    @staticmethod
    def _main_pid(process: subprocess.Popen[bytes]) -> int | None:
        """The container's first process: the kernel ends all others with it."""
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return int(children[0]) if children else None
        return None


class Meter:
    """Counts dollars by the second. Thread-safe. `now` is seconds of any clock."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._rate_usd_per_hour = 0.0
        self._since = now()
        self._counted_usd = 0.0

    def run_at(self, usd_per_hour: float) -> None:
        """From now on; 0 ends it."""
        with self._lock:
            now = self._now()
            self._counted_usd += (now - self._since) * self._rate_usd_per_hour / 3600
            self._since, self._rate_usd_per_hour = now, usd_per_hour

    @property
    def usd(self) -> float:
        with self._lock:
            return self._counted_usd + (self._now() - self._since) * self._rate_usd_per_hour / 3600

    @property
    def cents(self) -> int:
        return round(100 * self.usd)


def _image(port: int) -> dict[str, str]:
    """What the overlay has that this machine has not: RunPod's start script, and a python3 that knows torch."""
    python = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    return {
        START: _START_SCRIPT.replace("SSHD", f"mkdir -p /run/sshd && {sshd_binary()} -E /var/log/sshd.log"),
        "/etc/ssh/sshd_config": _SSHD_CONFIG.format(port=port),
        "/usr/local/bin/python3": python,
        "/usr/local/bin/python": python,
        # as in the image: only an interactive shell gets the pod's environment
        "/root/.bashrc": "case $- in *i*) . /etc/rp_environment ;; esac\n",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
