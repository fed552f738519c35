"""A run with object storage, on a real SSH host and a real S3 server: what is uploaded survives machine and laptop."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.storage.api import ObjectStore
from tests.e2e.command import Cloudbooth, processes_naming, wait_until
from tests.fakes.s3_servers import SECRET_KEY, S3Server
from tests.fakes.sshd import Sshd


@pytest.fixture
def with_store(cloudbooth_over_ssh: Cloudbooth, s3_server: S3Server, s3_store: ObjectStore) -> Cloudbooth:
    """The laptop has the store's keys in its environment; logins at the host do not."""
    cloudbooth_over_ssh.machine += (
        "--set", f"storage.url={s3_store.url}", "--set", f"storage.endpoint_url={s3_server.endpoint_url}",
    )  # fmt: skip
    cloudbooth_over_ssh.environ.update(s3_server.environ)
    return cloudbooth_over_ssh


@pytest.fixture
def machine(sshd: Sshd) -> Iterator[Path]:
    """Where the host keeps its work; whatever still runs there is ended."""
    yield sshd.home / "work"
    _kill_the_machine(sshd.home / "work")


def _kill_the_machine(work: Path) -> None:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            if str(work).encode() in command and int(entry.name) != os.getpid():
                os.kill(int(entry.name), signal.SIGKILL)
        except (OSError, ValueError):
            continue


def _stored_steps(store: ObjectStore) -> list[int]:
    """Of the indexes that the machine has written."""
    import json

    indexes = [found.key for found in store.objects("runs/") if found.key.rpartition("/")[2].startswith("index-")]
    manifests = [json.loads(store.get(key)).get("manifest") for key in indexes]
    return sorted(json.loads(manifest)["step"] for manifest in manifests if manifest)


def test_a_run_whose_machine_dies_while_nobody_looks_goes_on_from_the_store(
    with_store: Cloudbooth, sshd: Sshd, machine: Path, s3_store: ObjectStore, s3_server: S3Server, tmp_path: Path
) -> None:
    laptop = with_store
    argv = laptop.launch_argv("subject", "--steps", "100000", "--set", "train.checkpoint_every=10")
    assert laptop.kill_when(argv, lambda line: line.get("type") == "state" and line.get("state") == "training")
    wait_until(lambda: (_stored_steps(s3_store) or [0])[-1] >= 30, "the third checkpoint in the store", 120)

    # While it runs: no key of the store anywhere on the machine.
    told = "".join(processes_naming(str(machine)))
    assert told, "nothing runs there"
    found = [path for path in machine.rglob("*") if path.is_file() and SECRET_KEY.encode() in path.read_bytes()]
    assert found == []
    assert SECRET_KEY not in told
    assert not any(SECRET_KEY.encode() in environ for environ in _environments(machine))

    _kill_the_machine(machine)
    shutil.rmtree(machine)
    sshd.go_away()
    pulled = laptop.run("pull", "subject", "--json").summary
    [checkpoint] = pulled["artifacts"]
    assert checkpoint["step"] >= 30

    sshd.come_back()
    other = Cloudbooth(tmp_path / "other", (), {**s3_server.environ, "AWS_ENDPOINT_URL_S3": s3_server.endpoint_url})
    other.root.mkdir()
    seen = other.kill_when(
        ["resume", "subject", "--from", s3_store.url, "--json"],
        lambda line: line.get("type") == "event" and line["event"].get("step", 0) > checkpoint["step"],
    )
    assert seen
    steps = [event["step"] for event in other.events("subject", "step")]
    assert min(steps) > checkpoint["step"] - 1


def _environments(machine: Path) -> list[bytes]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(machine).encode() in (entry / "cmdline").read_bytes():
                found.append((entry / "environ").read_bytes())
        except OSError:
            continue
    return found
