"""A rented machine ends by itself when nobody else can: real guard, real supervisor, real trainer, no laptop."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.boot_script import GuardSettings, start_command
from remote_trainer import run_folder as folders
from remote_trainer import wire
from remote_trainer.deadline import boot_clock
from remote_trainer.lease import GuardFiles
from tests.e2e.command import PATIENCE_S, wait_until
from tests.fakes.self_release import KEY_VARIABLE, SelfReleaseService, end_guard

ROOT = Path(__file__).parents[2]


@dataclass
class RentedMachine:
    """Booted with the product's own start command, in a home of its own."""

    root: Path
    service: SelfReleaseService

    @property
    def run_folder(self) -> Path:
        return self.root / "work" / "runs" / "robot"

    @property
    def guard(self) -> GuardFiles:
        found = GuardFiles.above(self.run_folder)
        assert found is not None, "no guard was ever started"
        return found

    def boot(self, lease_s: int) -> None:
        settings = GuardSettings(str(self.root / "work"), first_lease_s=120, lease_s=lease_s, poll_s=0.1)
        command = start_command(self.service.calls(), settings, authorized_key="ssh-ed25519 AAAA robot")
        subprocess.run(["sh", "-c", command], env=self._environment(), check=True, timeout=60)
        self.service.wait_for("probe")
        wait_until(lambda: self.guard.proven is True, "the guard's proof")

    def ship(self, **limits: float) -> None:
        """A tiny job that would take hours."""
        photos = self.run_folder / "data" / "instance"
        photos.mkdir(parents=True)
        images = []
        for number in range(4):
            path = photos / f"{number}.png"
            Image.new("RGB", (64, 64), (40 * number, 90, 120)).save(path)
            images.append(wire.ImageSpec(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), 64, 64))
        train = wire.TrainSpec(
            steps=1_000_000, resolution=64, learning_rate=1e-4, cpu_threads=1, checkpoint_every=5, validate_every=0
        )
        dataset = wire.DatasetSpec("i", "instance", "data/instance", "a sks robot", tuple(images))
        job = wire.Job(
            "robot", "robot", "builtin:tiny", train, (dataset,), ("lora",), allow_cpu=True, machine="cb-1", **limits
        )  # type: ignore[arg-type]
        (self.run_folder / wire.JOB_FILE).write_bytes(wire.dumps(job))

    def start(self) -> None:
        """The laptop's last call."""
        argv = [sys.executable, "-m", "remote_trainer", "start", "--run-folder", str(self.run_folder), "--epoch", "1"]
        subprocess.run(argv, env=self._environment(), cwd=ROOT, check=True, timeout=PATIENCE_S, capture_output=True)

    def events(self) -> list[wire.Event]:
        return folders.events_after_last_hello(self.run_folder)

    @property
    def has_said_its_last_word(self) -> bool:
        """In one look: between two of them a trainer that never spoke may end, and the first word count as the last."""
        events = self.events()
        return isinstance(events[-1], wire.SelfReleased) and any(isinstance(event, wire.Failed) for event in events)

    def end(self) -> None:
        """Whatever of it still lives."""
        end_guard(self.root / "memory")
        for file, key, kill in ((folders.SUPERVISOR_FILE, "pid", os.kill), (folders.STAGE_FILE, "pgid", os.killpg)):
            recorded = folders.read_json(self.run_folder / file)
            lock = folders.SUPERVISOR_LOCK if key == "pid" else folders.STAGE_LOCK
            if recorded is not None and folders.is_held(self.run_folder / lock):
                kill(int(recorded[key]), signal.SIGKILL)

    def _environment(self) -> dict[str, str]:
        mine = {"HOME": str(self.root), "CLOUDBOOTH_GUARD_MEMORY": str(self.root / "memory"), KEY_VARIABLE: "k"}
        return {**os.environ, **mine, "MACHINE_NAME": "m", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[RentedMachine]:
    with SelfReleaseService() as service:
        rented = RentedMachine(tmp_path, service)
        try:
            yield rented
        finally:
            rented.end()


def test_without_a_laptop_the_limit_ends_in_a_checkpoint_and_one_call(machine: RentedMachine) -> None:
    machine.boot(lease_s=120)
    machine.ship(limit_s=78.0, reserve_s=60.0, wait_for_laptop_s=2.0)  # imports take eight of the eighteen seconds
    machine.start()
    wait_until(lambda: machine.has_said_its_last_word, "the last word")
    # On a slow machine the time may be over before the first step.
    kept = bool(folders.committed_checkpoints(machine.run_folder))
    machine.service.wait_for("stop" if kept else "terminate")
    assert len(machine.service.acts()) == 1
    events = machine.events()
    assert [event.code for event in events if isinstance(event, wire.Failed)] == ["deadline"]
    proof, last = (event for event in events if isinstance(event, wire.SelfReleased))
    assert (proof.proven, last.proven) == (True, None)
    assert last.action == machine.service.acts()[0]
    assert not folders.is_held(machine.run_folder / folders.STAGE_LOCK), "the trainer outlived its machine's call"


def test_a_supervisor_that_is_killed_leaves_the_rest_to_the_guard(machine: RentedMachine) -> None:
    machine.boot(lease_s=5)
    machine.ship(limit_s=3600.0)
    machine.guard.end_lease(boot_clock() + 300)  # so that the machine's first lease is not waited for
    machine.start()
    machine.guard.end_lease(boot_clock() + 5)
    recorded = folders.read_json(machine.run_folder / folders.SUPERVISOR_FILE)
    assert recorded is not None
    os.kill(int(recorded["pid"]), signal.SIGKILL)
    machine.service.wait_for("terminate")
    assert machine.service.acts() == ["terminate"]


def test_a_guard_that_is_killed_is_started_again_by_the_supervisor(machine: RentedMachine) -> None:
    machine.boot(lease_s=120)
    end_guard(machine.root / "memory")
    (machine.root / "memory" / "beat").unlink()  # as if two minutes had passed
    machine.ship(limit_s=3600.0)
    machine.start()
    wait_until(lambda: machine.guard.is_alive(boot_clock()), "a living guard")
    assert machine.guard.proven is True
    wait_until(lambda: any(isinstance(event, wire.Warned) for event in machine.events()), "a warning")
    machine.guard.end_lease(boot_clock())
    machine.service.wait_for("terminate")
