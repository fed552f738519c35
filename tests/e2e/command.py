"""The installed command as a user runs it: child processes, JSON lines, signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXECUTABLE = Path(sys.executable).with_name("cloudbooth")
PHOTOS = Path(__file__).parents[2] / "examples" / "local" / "photos"
PATIENCE_S = 300.0
"""For whatever will happen by itself: nobody waits longer than it takes, but a busy machine may take long."""


@dataclass(frozen=True)
class Finished:
    exit_code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        return self.lines[-1]


@dataclass
class Cloudbooth:
    """One installation: a state folder, a place for models, and how to reach the machine."""

    root: Path
    machine: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def models(self) -> Path:
        return self.root / "models"

    def run(self, *argv: str, check: int | None = 0, timeout_s: float = PATIENCE_S) -> Finished:
        """Runs to the end and asserts the exit code (None: any)."""
        done = subprocess.run(
            [EXECUTABLE, *argv], env=self._env(), cwd=self.root, capture_output=True, timeout=timeout_s,
            stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        if check is not None:
            assert done.returncode == check, (
                f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            )
        return Finished(done.returncode, done.stdout, done.stderr)

    def launch_argv(self, name: str, *more: str, photos: Path = PHOTOS) -> list[str]:
        """A short real training of the tiny base on one thread."""
        settings = {
            "model.base": "builtin:tiny", "output.folder": str(self.models), "train.resolution": 64,
            "train.cpu_threads": 1, "train.batch_size": 2, "train.validation_inference_steps": 2,
        }  # fmt: skip
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        return ["launch", str(photos), "--subject", "sks robot", "--name", name, *sets, *self.machine, *more, "--json"]

    @contextlib.contextmanager
    def started(self, *argv: str) -> Iterator[subprocess.Popen[str]]:
        """A driver to be killed; whatever happens, it is gone afterwards."""
        child = subprocess.Popen(
            [EXECUTABLE, *argv], env=self._env(), cwd=self.root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_as_a_terminal_starts_it,
        )  # fmt: skip
        try:
            yield child
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            if child.stdout is not None and not child.stdout.closed:
                child.communicate(timeout=PATIENCE_S)

    def kill_when(self, argv: Sequence[str], moment: Callable[[dict[str, Any]], bool]) -> bool:
        """SIGKILLs the driver as soon as it prints a line that `moment` is true for; false when it ended before."""
        with self.started(*argv) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if moment(json.loads(line)):
                    os.killpg(child.pid, signal.SIGKILL)
                    return True
            return False

    def kill_after(self, argv: Sequence[str], seconds: float) -> bool:
        """SIGKILLs the driver after a while; false when it ended before."""
        with self.started(*argv) as child:
            try:
                child.communicate(timeout=seconds)
                return False
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                return True

    def events(self, run: str, kind: str | None = None) -> list[dict[str, Any]]:
        """What `logs` says, all or of one type."""
        lines = self.run("logs", run, "--json").lines
        return [line for line in lines if kind is None or line["type"] == kind]

    def _env(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        return {**inherited, "CLOUDBOOTH_HOME": str(self.root / "state"), "OMP_NUM_THREADS": "1", **self.environ}


def _as_a_terminal_starts_it() -> None:
    """A suite that runs in the background of a shell has SIGINT ignored, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def processes_naming(text: str) -> list[str]:
    """Command lines of living processes of this machine that name `text`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if text in command and int(entry.name) != os.getpid():
                found.append(command)
    return found


def files_below(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Each with what is in it, where others are at work: `Path.rglob` fails when a folder goes while it looks."""
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with contextlib.suppress(OSError):
                if path.is_file():
                    yield path, path.read_bytes()


def wait_until(claim: Callable[[], bool], what: str) -> None:
    """Polls for something another process does, with half of the time left to that one; fails naming it."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        asked_at = time.monotonic()
        if claim():
            return
        assert asked_at < deadline, f"{what}: not within {PATIENCE_S:.0f} s"
        time.sleep(min(max(0.05, time.monotonic() - asked_at), 1.0))
