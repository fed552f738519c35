"""Transfers over a real SSH server whose ends are killed at random moments, and what they cost.

Run as a program, this is the laptop's end: it moves the files, and prints the bytes that crossed as they do.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.checksum import sha256_of
from orchestrator.code_bundle import trainer_code
from orchestrator.fetch import fetch_files
from orchestrator.host import ConnectionLost, HostUnreachable
from orchestrator.remote_run import RemoteRun, probe, unpack_code
from orchestrator.ssh.host import SshHost
from orchestrator.transfer.chunks import CHUNK_BYTES
from orchestrator.transfer.sending import upload
from providers.api import SshAccess
from remote_trainer import wire
from tests.fakes.sshd import Sshd

Way = Literal["up", "down"]
End = Literal["laptop", "connections"]
MIB = 1 << 20


@dataclass(frozen=True)
class Outcome:
    kills: int
    connections: int
    """That stood when they came, all together: a busy machine answers as late as a far one, and gets more streams."""
    moved_bytes: int
    """All that crossed, over all attempts."""
    size_bytes: int
    is_identical: bool

    @property
    def again_bytes(self) -> int:
        return self.moved_bytes - self.size_bytes

    @property
    def allowed_bytes(self) -> int:
        """One chunk for each stream and kill."""
        return self.connections * CHUNK_BYTES


def open_run(access: SshAccess) -> RemoteRun:
    host, code = SshHost(access), trainer_code()
    facts = probe(host, access, code)
    if not facts.has_code:
        unpack_code(host, access, facts, code)
    return RemoteRun(host, access, facts.workdir, code.id, "robot", "robot", epoch=1)


def make_file(path: Path, size: int) -> wire.FileEntry:
    """No two chunks are equal, so that none can stand in for another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = random.Random(size)
    with path.open("wb") as handle:
        for start in range(0, size, MIB):
            handle.write(chance.randbytes(min(MIB, size - start)))
    return wire.FileEntry(path.name, path.stat().st_size, sha256_of(path))


def empty_file(path: Path, size: int) -> wire.FileEntry:
    """Nothing but a hole, which takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as handle:
        handle.truncate(size)
    return wire.FileEntry(path.name, size, sha256_of(path))


def killed_transfer(
    server: Sshd, access: SshAccess, folder: Path, way: Way, end: End, size: int, kills: int, chance: random.Random
) -> Outcome:
    """Moves one file, killing `end` whenever a random share of what is left has crossed, `kills` times in all."""
    run = open_run(access)
    there, here = Path(run.folder) / "x", folder / "here"
    entry = make_file((here if way == "up" else there) / "weights", size)
    arrived = (there if way == "up" else here) / "weights"
    run.host.close()
    moved = done = killed = connections = 0
    while not arrived.exists():
        at = done + chance.uniform(0.05, 0.9) * (size - done) / max(1, kills - killed)
        argv = [
            sys.executable,
            "-m",
            "tests.e2e.killing",
            json.dumps([way, vars(access), str(here), wire.encode(entry)]),
        ]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as laptop:
            assert laptop.stdout is not None
            for line in laptop.stdout:
                kind, _, count = line.decode().partition(" ")
                if kind == "moved":
                    moved += max(0, int(count))
                done += int(count)
                if killed < kills and done >= at:
                    killed += 1
                    connections += server.connections()
                    if end == "laptop":
                        laptop.kill()
                        break
                    server.kill_connections()
                    at = done + chance.uniform(0.05, 0.9) * (size - done) / max(1, kills - killed)
        done = 0
    return Outcome(killed, connections, moved, size, sha256_of(arrived) == entry.sha256)


def _laptop(way: Way, access: SshAccess, here: Path, entry: wire.FileEntry) -> None:
    def told(kind: str, count: int) -> None:
        os.write(1, f"{kind} {count}\n".encode())

    run = open_run(access)
    try:
        if way == "up":
            root = f"{run.folder}/x"
            if run.missing(root, [entry]):
                upload(run, root, here, [entry], lambda n: told("moved", n), lambda n: told("found", n))
        else:
            fetch_files(run, "x", [entry], here, lambda n: told("moved", n), lambda n: told("found", n))
    except (ConnectionLost, HostUnreachable) as error:
        print(f"lost 0 {error}", file=sys.stderr)


if __name__ == "__main__":
    _way, _access, _here, _entry = json.loads(sys.argv[1])
    _laptop(_way, SshAccess(**_access), Path(_here), wire.decode(wire.FileEntry, _entry))
