"""Runs that train on an SSH host, as far as a laptop can tell: rows in the ledger here, logs that grow over there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.clock import SystemClock
from orchestrator.home import Home
from orchestrator.ledger import Ledger
from orchestrator.lifecycle import State
from orchestrator.spec import spec_to_json
from orchestrator.spec_file import spec_from_photos
from providers.api import MachineId, Market, Offer, SshAccess
from providers.unbilled import Rental, RentalRecords

AT_WORK = """
import fcntl, json, os, pathlib, sys, time
from remote_trainer import wire
folders, held, lines = [pathlib.Path(each) for each in sys.argv[2:]], [], 0
for folder in folders:
    folder.mkdir(parents=True)
    (folder / "incarnation").write_text("a")
    (folder / "supervisor.json").write_text(json.dumps({"pid": os.getpid()}))
    hello = wire.Hello(1, "gpu", "3.11", os.getpid(), 1)
    (folder / "events.jsonl").write_bytes(wire.encode_event(hello, 0, time.time()))
    held.append((folder / "supervisor.lock").open("w"))
    fcntl.flock(held[-1], fcntl.LOCK_EX)
print("ready", flush=True)
for step in range(1, 100_000):
    time.sleep(float(sys.argv[1]))
    for folder in folders:
        event = wire.StepDone(step, 100_000, 0.1, 1e-4, 3.0, 11.0)
        with (folder / "events.jsonl").open("ab") as log:
            log.write(wire.encode_event(event, step, time.time()))
"""


def record_training(home: Home, name: str, access: SshAccess, photos: Path) -> str:
    """The run `name` in the state training on that host, without a driver. Returns its folder's name there."""
    ssh = {"host": access.host, "port": access.port, "user": access.user, "python": access.python}
    ssh |= {"identity_file": access.identity_file, "workdir": access.workdir}
    settings = tuple(f"compute.ssh.{key}={json.dumps(value)}" for key, value in ssh.items() if value)
    spec = spec_from_photos(photos, "sks dog", (f"name={name}", "compute.provider=ssh", *settings))
    ledger = Ledger(home.ledger_file, SystemClock())
    ledger.add_run(name, "ssh", spec_to_json(spec), "{}")
    epoch, tag = ledger.become_driver(name), f"cb-{name}"
    ledger.move(name, epoch, State.PLANNED, State.PROVISIONING, "the plan was accepted")
    offer = Offer("ssh", "ssh", "unknown", 1, 0.0, Market.ON_DEMAND, 0.0)
    ledger.record_intent(ledger.run(name), epoch, tag, offer)
    RentalRecords(home.providers_folder / "ssh" / "machines" / "ssh").add(Rental(tag, spec.compute.ssh.access))
    ledger.record_created(name, epoch, tag, MachineId(tag))
    ledger.move(name, epoch, State.PROVISIONING, State.SHIPPING, "the machine answers")
    ledger.move(name, epoch, State.SHIPPING, State.TRAINING, "the host has everything")
    home.run(name).root.mkdir(parents=True)
    folder = f"{name}-{ledger.installation}-{int(ledger.run(name).created_at)}"
    ledger.close()
    return folder


@contextmanager
def at_work(folders: Sequence[Path], step_s: float = 1.0) -> Iterator[None]:
    """One process over there in the place of the supervisors of all these runs; each tells a step every `step_s`."""
    argv = [sys.executable, "-c", AT_WORK, str(step_s), *map(str, folders)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as supervisors:
        try:
            assert supervisors.stdout is not None
            assert supervisors.stdout.readline() == b"ready\n"
            yield
        finally:
            supervisors.kill()
