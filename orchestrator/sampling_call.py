"""Asking a host for pictures or for a model in other formats: `sample` and `export` of the trainer package.

The host is this machine or one that a run keeps; torch is imported there and never here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.code_bundle import trainer_code
from orchestrator.errors import UsageError
from orchestrator.host import Host, HostError
from orchestrator.remote_run import probe, unpack_code
from orchestrator.understanding import understood
from orchestrator.whole_file import write_atomically
from providers.api import Access
from remote_trainer import wire

IDLE_TIMEOUT_S = 60.0
"""The other side shows a sign of life every five seconds."""
MAX_PICTURE_BYTES = 1 << 28
"""Twice a grid of nine pictures of 2048 x 2048 that no PNG could make any smaller."""
_AGAIN_ELSEWHERE = "the same command again; where it comes again: `cloudbooth down RUN`, and another machine"
_DISTRUST = "our code names none so: give the machine back with `cloudbooth down`, and rent another"


@dataclass(frozen=True)
class Studio:
    """A host with our code on it, ready to make something of a finished model."""

    host: Host
    python: str
    workdir: str
    code_id: str

    @classmethod
    def on(cls, host: Host, access: Access) -> Studio:
        """Puts the code there if it is missing. Raises HostError."""
        code = trainer_code()
        facts = probe(host, access, code)
        if not facts.has_code:
            unpack_code(host, access, facts, code)
        return cls(host, access.python, facts.workdir, code.id)

    def make(self, job: wire.PictureJob, out: str, told: Callable[[wire.Event], None]) -> list[wire.FileEntry]:
        """Blocks until every picture lies in `out` on the host; returns them, the grid last.

        Raises HostError as the connection does, and UsageError with the host's own words when it cannot make them.
        """
        made = list[wire.FileEntry]()

        def hear(event: wire.Event) -> None:
            told(event)
            if isinstance(event, wire.SampleMade):
                made.append(event.file)

        self._have_done("sample", job, out, hear)
        return made

    def convert(self, wanted: wire.Conversion, out: str, told: Callable[[wire.Event], None]) -> None:
        """Blocks until `out` on the host, which must not exist, holds the model in the formats of `wanted.job`, under a
        manifest. Raises as `make`.
        """
        self._have_done("export", wanted, out, told)

    def _have_done(
        self, verb: str, request: wire.PictureJob | wire.Conversion, out: str, told: Callable[[wire.Event], None]
    ) -> None:
        asked = ["--workdir", self.workdir, "--request", json.dumps(wire.encode(request)), "--out", out]
        failed = None
        try:
            for event in self._events([*self._verb(verb), *asked]):
                told(event)
                failed = event if isinstance(event, wire.Failed) else failed
        except HostError:
            if failed is None:
                raise
        if failed is not None:
            raise UsageError(failed.message, failed.hint)

    def fetch(self, out: str, made: list[wire.FileEntry], target: Path) -> None:
        """Brings them from `out` on the host into `target`, verified by size and hash.

        Raises HostError; for a name that leads out of `target` and for more than `MAX_PICTURE_BYTES` before anything is
        written. No more than the announced size is ever held.
        """
        import hashlib

        for entry in made:
            if not entry.stays_inside:
                raise HostError(f"{self.host.label} names a picture outside its folder: {entry.path!r}", _DISTRUST)
            if entry.bytes > MAX_PICTURE_BYTES:
                announced = f"{self.host.label} announces {entry.bytes / 1e6:.0f} MB for {entry.path}"
                raise HostError(f"{announced}, and no picture is so large", _AGAIN_ELSEWHERE)
        target.mkdir(parents=True, exist_ok=True)
        for entry in made:
            argv = [*self._verb("read"), "--root", out, "--files", json.dumps([[entry.path, 0, None]])]
            content = bytearray()
            with self.host.receive(argv, idle_timeout_s=IDLE_TIMEOUT_S) as chunks:
                for chunk in chunks:
                    content += chunk
                    if len(content) > entry.bytes:
                        raise HostError(
                            f"{self.host.label} sends more of {entry.path} than it announced", _AGAIN_ELSEWHERE
                        )
            if hashlib.sha256(content).hexdigest() != entry.sha256:
                raise HostError(f"{entry.path} arrived damaged", "the same command again")
            write_atomically(target / entry.path, bytes(content))

    def _verb(self, verb: str) -> list[str]:
        path = f"PYTHONPATH={self.workdir}/code/{self.code_id}"
        return ["env", path, self.python, "-m", "remote_trainer", verb]

    def _events(self, argv: list[str]) -> Iterator[wire.Event]:
        pending = b""
        with self.host.receive(argv, idle_timeout_s=IDLE_TIMEOUT_S) as chunks:
            for chunk in chunks:
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    with understood(f"the answer of {self.host.label}"):
                        yield wire.decode_event(line).event
