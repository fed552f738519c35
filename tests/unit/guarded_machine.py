"""A machine that runs the guard's script as it is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.boot_script import GuardSettings, guard_program
from remote_trainer.deadline import boot_clock
from remote_trainer.lease import GuardFiles
from tests.fakes.self_release import KEY_VARIABLE, SelfReleaseService

KEY = "secret-of-the-machine"


POLL_S = 0.05


class Machine:
    """One that a guard may run on: work folder, memory, environment."""

    def __init__(self, root: Path, service: SelfReleaseService, *, stop: bool = True, first_lease_s: int = 600) -> None:
        self.root, self.service = root, service
        self.state, self.memory = root / "work" / "guard", root / "memory"
        for folder in (self.state, self.memory):
            folder.mkdir(parents=True, exist_ok=True)
        settings = GuardSettings(str(root / "work"), first_lease_s, poll_s=POLL_S, retry_s=1)
        self.script = self.memory / "guard.sh"
        self.script.write_text(guard_program(service.calls(stop=stop), settings))
        (self.state / "memory").write_text(str(self.memory))
        self.files = GuardFiles(self.state, self.memory)
        self.environment = {"PATH": os.environ["PATH"], KEY_VARIABLE: KEY, "MACHINE_NAME": "m"}

    def remember(self, **seconds_from_now: float) -> None:
        for name, left_s in seconds_from_now.items():
            (self.memory / name).write_text(f"{int(boot_clock() + left_s)}\n")

    @contextlib.contextmanager
    def guard(self, *, again: bool = False, shell: tuple[str, ...] = ("sh",)) -> Iterator[subprocess.Popen[bytes]]:
        environment = {**self.environment, **({"CLOUDBOOTH_GUARD_AGAIN": "yes"} if again else {})}
        with subprocess.Popen([*shell, str(self.script)], env=environment, cwd="/", start_new_session=True) as process:
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def log(self) -> str:
        path = self.state / "log"
        return path.read_text() if path.exists() else ""


def eventually(claim: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + 120
    while not claim():
        assert time.monotonic() < give_up_at, what
        time.sleep(0.02)
