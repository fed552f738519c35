"""One run on one host, as calls: probe, unpack code, and the agent's verbs. The commands are built as values.

Nothing here decides or remembers. Every method blocks for one exchange, may be repeated, and raises HostError as the
host's connection does.
"""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from orchestrator.code_bundle import CodeBundle
from orchestrator.errors import StaleDriver
from orchestrator.host import Completed, Host, HostError
from orchestrator.transfer.chunks import Range
from orchestrator.understanding import understood
from providers.api import Access
from providers.secret import Secret
from remote_trainer import wire

STALE_EPOCH_EXIT = 75
"""`remote_trainer.agent` ends with this code when it has seen a higher epoch."""
START_TIMEOUT_S = 60.0
STREAM_IDLE_S = 20.0
"""The agent's `follow` shows a sign of life every second; this much silence is a dead link."""
STALL_S = 30.0
"""A transfer that has not moved for so long goes on over a new connection. A disk may be busy for seconds."""

OnBytes = Callable[[int], None]
"""Called with the bytes that crossed (negative when some are thrown away); raising ends the transfer."""

_PROBE = """
import glob, json, os, shutil, sys
from importlib import metadata
root = os.path.abspath(os.path.expanduser(sys.argv[1]))
try:
    os.makedirs(root, mode=0o700, exist_ok=True)
except OSError as error:
    sys.exit(f"{error.strerror}: {error.filename}")
print(json.dumps({"python": list(sys.version_info[:3]), "workdir": root, "free_bytes": shutil.disk_usage(root).free,
                  "has_gpu": shutil.which("nvidia-smi") is not None,
                  "has_code": os.path.isdir(os.path.join(root, "code", sys.argv[2])),
                  "has_environment": bool(glob.glob(os.path.join(glob.escape(root), "envs", "*", "complete.json")))
                  or {"torch", "diffusers", "peft"} <= {each.metadata["Name"] for each in metadata.distributions()}}))
"""

_PROBE_BEGINS = b'{"python": '

_SILENCE = (
    "put this line first in ~/.bashrc there (or what else its shell reads), so that only people are greeted: "
    "case $- in *i*) ;; *) return;; esac"
)

_UNPACK = """
import io, os, shutil, sys, tarfile
target = sys.argv[1]
partial = target + ".part-" + str(os.getpid())
os.makedirs(partial)
tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read())).extractall(partial)
try:
    os.rename(partial, target)
except OSError:
    shutil.rmtree(partial)
    if not os.path.isdir(target):
        raise
"""
"""Rename as the last step: two drivers unpacking at once both succeed, and a torn folder never looks whole."""


@dataclass(frozen=True)
class HostFacts:
    """What one look at a host tells, before anything of ours is there."""

    python_version: tuple[int, int, int]
    workdir: str
    """Absolute; made (for its user alone) if it was not there."""
    free_bytes: int
    has_code: bool
    has_gpu: bool
    """Whether an NVIDIA driver is installed; what it can do shows on the host."""
    has_environment: bool
    """Whether an environment was built there before, or its Python has the trainer's packages, by their names: one of
    the wrong version shows only on the host, which then builds an environment after all."""


MIN_HOST_PYTHON = (3, 9)


def probe(host: Host, access: Access, code: CodeBundle) -> HostFacts:
    """Raises HostError when the host has no usable Python or work folder, or prints text at login."""
    done = host.run([access.python, "-c", _PROBE, access.workdir, code.id])
    if done.exit_code in (126, 127):
        raise HostError(
            f"{host.label} has no `{access.python}` ({_last_line(done)})",
            "install Python 3.9 or later there, or name it: `--set compute.ssh.python=/path/to/python3`",
        )
    require_success(
        done,
        host,
        f"its work folder {access.workdir} cannot be used",
        "name another: `--set compute.ssh.workdir=/path/to/cloudbooth`",
    )
    told = _told(done.stdout, host)
    major, minor, micro = told["python"]
    if (major, minor) < MIN_HOST_PYTHON:
        raise HostError(
            f"{host.label} has Python {major}.{minor}, the supervisor needs 3.9",
            "name a newer one: `--set compute.ssh.python=python3.11`",
        )
    return HostFacts(
        (major, minor, micro),
        told["workdir"],
        told["free_bytes"],
        told["has_code"],
        told["has_gpu"],
        told["has_environment"],
    )


def _told(stdout: bytes, host: Host) -> dict[str, Any]:
    """The probe's answer. What a login prints before it would stand in every stream of bytes from then on."""
    before, brace, rest = stdout.partition(_PROBE_BEGINS)
    try:
        told: dict[str, Any] = json.loads(brace + rest)
    except ValueError:
        said = stdout.decode(errors="replace").strip()
        raise HostError(
            f"{host.label} does not answer as a shell does: {said[:80]!r}",
            f"`ssh {host.label} echo hi` must print hi and nothing else",
        ) from None
    if before:
        first = (before.decode(errors="replace").strip() or repr(before)).splitlines()[0]
        raise HostError(f"{host.label} prints text at login: {first[:80]!r}", _SILENCE)
    return told


def unpack_code(host: Host, access: Access, facts: HostFacts, code: CodeBundle) -> None:
    """Puts the trainer's code on the host. Twice is safe."""
    target = f"{facts.workdir}/code/{code.id}"
    script = f"import os; os.makedirs({facts.workdir + '/code'!r}, exist_ok=True)\n{_UNPACK}"
    done = host.send([access.python, "-c", script, target], [code.tar])
    remedy = f"`rm -r {shlex.quote(facts.workdir + '/code')}` there"
    require_success(done, host, "the trainer's code cannot be unpacked", remedy)


@dataclass(frozen=True)
class Accepted:
    """What the host has made of one stream, by paths below its root."""

    damaged: frozenset[str]
    """Small files whose hash is not what it should be."""
    finished: frozenset[str]
    """Large files that are complete and right, and have their names."""


class RemoteRun:
    """The agent of one run on a host whose code is unpacked. `epoch` marks the calls that change something."""

    def __init__(
        self, host: Host, access: Access, workdir: str, code_id: str, run: str, folder_name: str, epoch: int
    ) -> None:
        self.host = host
        self.run = run
        """The run's name on this laptop, for hints."""
        self.stall_s = STALL_S
        self.workdir = workdir
        self.folder = f"{workdir}/runs/{folder_name}"
        self._agent = ("env", f"PYTHONPATH={workdir}/code/{code_id}", access.python, "-m", "remote_trainer")
        self._epoch = ("--epoch", str(epoch))

    def status(self) -> wire.HostStatus:
        return self._ask("status", "--run-folder", self.folder)

    def start(self) -> wire.HostStatus:
        """Returns once a supervisor lives (or the run is done). Raises StaleDriver for an old epoch."""
        return self._ask("start", "--run-folder", self.folder, *self._epoch)

    def stop(self, *, now: bool) -> wire.HostStatus:
        """Asks for a checkpoint and the end; with `now` kills everything of the run and waits until it is gone."""
        return self._ask("stop", "--run-folder", self.folder, *self._epoch, *(("--now",) if now else ()))

    def forget(self) -> None:
        """Removes the run's folder with everything in it."""
        self._checked(self.host.run([*self._agent, "forget", "--run-folder", self.folder, *self._epoch]), "forget")

    def lend(self, grant: wire.UploadGrant) -> None:
        """Hands uploads over, by stdin; they replace what was lent before. Raises StaleDriver for an old epoch."""
        call = [*self._agent, "grant", "--run-folder", self.folder, *self._epoch]
        self._checked(self.host.run(call, stdin=wire.dumps(grant)), "grant")

    def follow(self, offset: int) -> AbstractContextManager[Iterator[bytes]]:
        """Raw bytes of the event log from `offset`; empty lines between them are signs of life."""
        return self.host.receive(
            [*self._agent, "follow", "--run-folder", self.folder, "--offset", str(offset)],
            idle_timeout_s=STREAM_IDLE_S,
        )

    def over(self, host: Host) -> RemoteRun:
        """The same run over another connection to its machine."""
        twin = copy.copy(self)
        twin.host = host
        return twin

    def read(self, path: str) -> AbstractContextManager[Iterator[bytes]]:
        """All of a file, by its path relative to the run's folder."""
        return self._read([[path, 0, None]])

    def read_ranges(self, folder: str, ranges: Sequence[Range]) -> AbstractContextManager[Iterator[bytes]]:
        """The ranges of files below `folder` (relative to the run's folder), concatenated."""
        return self._read([[f"{folder}/{wanted.path}", wanted.offset, wanted.length] for wanted in ranges])

    def _read(self, ranges: Sequence[Sequence[object]]) -> AbstractContextManager[Iterator[bytes]]:
        argv = [*self._agent, "read", "--root", self.folder, "--files", json.dumps(ranges)]
        return self.host.receive(argv, idle_timeout_s=self.stall_s)

    def digests(self, root: str, ranges: Sequence[Range], chunk_bytes: int) -> list[str | None]:
        """The sha256 of each `chunk_bytes` of each range of files below `root`; None where a file ends before."""
        files = json.dumps([[wanted.path, wanted.offset, wanted.length] for wanted in ranges])
        argv = [*self._agent, "digest", "--root", root, "--files", files, "--chunk", str(chunk_bytes)]
        return [None if line == b"-" else line.decode() for line in self._lines(argv)]

    def missing(self, root: str, wanted: Sequence[wire.FileEntry]) -> list[wire.FileEntry]:
        """Which of the files do not lie below `root` on the host with equal size and hash."""
        question = json.dumps([wire.encode(entry) for entry in wanted]).encode()
        done = self.host.run([*self._agent, "have", "--root", root], stdin=question, timeout_s=600)
        present = set(json.loads(self._checked(done, "have").stdout))
        return [entry for entry in wanted if entry.path not in present]

    def accept(self, root: str, tar: Iterable[bytes], needed_bytes: int) -> Accepted:
        """Has the host unpack a tar stream below `root`.

        Raises StaleDriver for an old epoch and, before anything is taken, HostError when less than `needed_bytes` are
        free there.
        """
        argv = [*self._agent, "accept", "--root", root, "--run-folder", self.folder, *self._epoch]
        argv += ["--needed-bytes", str(needed_bytes)]
        done = self._checked(self.host.send(argv, tar, idle_timeout_s=self.stall_s), "accept")
        with understood(f"the answer of {self.host.label}"):
            damaged, finished = json.loads(done.stdout)
            return Accepted(frozenset(damaged), frozenset(finished))

    def finish(self, root: str, entries: Sequence[wire.FileEntry]) -> list[bool]:
        """Has the host name each file that has arrived in ranges, if it is complete and right."""
        question = json.dumps([wire.encode(entry) for entry in entries])
        argv = [*self._agent, "finish", "--root", root, "--entries", question]
        return [bool(json.loads(line)) for line in self._lines(argv)]

    def lend_token(self, token: Secret) -> None:
        """Hands over a read token of the hub, in place of an earlier one. Raises StaleDriver for an old epoch."""
        call = [*self._agent, "token", "--run-folder", self.folder, *self._epoch]
        self._checked(self.host.run(call, stdin=token.reveal().encode()), "token")

    def saved(self, manifests: Sequence[str]) -> None:
        """Tells that these committed folders, named by manifest hash, are here, every file verified.

        From then on the machine's disk need not be kept for them. Twice is safe.
        """
        call = [*self._agent, "saved", "--run-folder", self.folder, "--manifests", json.dumps(list(manifests))]
        self._checked(self.host.run(call), "saved")

    def start_guard(self, program: str) -> wire.GuardStatus:
        """Starts the guard (`boot_script.guard_program`) where no boot plan did; one that lives stays."""
        call = [*self._agent, "guard", "--workdir", self.workdir]
        done = self._checked(self.host.run(call, stdin=program.encode(), timeout_s=START_TIMEOUT_S), "guard")
        with understood(f"the answer of {self.host.label}"):
            return wire.loads(wire.GuardStatus, done.stdout)

    def _lines(self, argv: Sequence[str]) -> list[bytes]:
        """Of an answer that takes its time; empty ones are signs of life."""
        with self.host.receive(argv, idle_timeout_s=self.stall_s) as chunks:
            return b"".join(chunks).split()

    def _ask(self, *call: str) -> wire.HostStatus:
        done = self._checked(self.host.run([*self._agent, *call], timeout_s=START_TIMEOUT_S), call[0])
        with understood(f"the answer of {self.host.label}"):
            return wire.loads(wire.HostStatus, done.stdout)

    def _checked(self, done: Completed, call: str) -> Completed:
        if done.exit_code == STALE_EPOCH_EXIT:
            raise StaleDriver(f"another process drives this run now ({_last_line(done)})", "`cloudbooth ps` shows it")
        hint = f"`cloudbooth logs {self.run} --trainer` shows what was said there"
        require_success(done, self.host, f"`{call}` failed", hint, then=f"`cloudbooth resume {self.run}`")
        return done


def require_success(done: Completed, host: Host, what: str, hint: str, then: str = "the same command again") -> None:
    """Raises HostError for a nonzero exit code. `then` is what to do once a full disk has room again."""
    if done.exit_code == 0:
        return
    reason = _last_line(done)
    full, _, room = reason.partition("No space left on device")
    if room or full != reason:
        known = f" ({room.lstrip(': ')})" if " GB needed" in room else ""
        raise HostError(f"the disk of {host.label} is full{known}", f"free some space there, then {then}")
    raise HostError(f"{host.label}: {what}: {reason or f'exit code {done.exit_code}'}", hint)


def _last_line(done: Completed) -> str:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return wire.plain_text(lines[-1]) if lines else ""
