"""A run with object storage, on a real SSH host and a real S3 server: what is uploaded survives machine and laptop."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.storage.api import ObjectStore
from tests.e2e.command import Cloudbooth, files_below, processes_naming, wait_until
from tests.fakes.s3_servers import SECRET_KEY, S3Server
from tests.fakes.sshd import Sshd

STEPS = 120
"""So many that the machine is at work when its third checkpoint is in the store, and so few that the rest is short."""


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
    """Of the checkpoints and models that the machine has uploaded."""
    return sorted(int(json.loads(index["manifest"])["step"]) for index in _indexes(store))


def _stored_kinds(store: ObjectStore) -> list[str]:
    return [index["kind"] for index in _indexes(store)]


def _indexes(store: ObjectStore) -> list[dict[str, str]]:
    keys = [found.key for found in store.objects("runs/") if found.key.rpartition("/")[2].startswith("index-")]
    return [index for index in (json.loads(store.get(key)) for key in keys) if index]


def test_a_run_whose_machine_dies_while_nobody_looks_is_brought_to_its_end_by_another_laptop(
    with_store: Cloudbooth, sshd: Sshd, machine: Path, s3_store: ObjectStore, s3_server: S3Server, tmp_path: Path
) -> None:
    """One story, for each of its two trainings loads torch: the first laptop is off from the start of the training and
    its machine dies after the third checkpoint; a second one knows only the bucket, and is off in its turn."""
    laptop = with_store
    argv = laptop.launch_argv("subject", "--steps", str(STEPS), "--set", "train.checkpoint_every=10")
    assert laptop.kill_when(argv, _training_begins)
    wait_until(lambda: (_stored_steps(s3_store) or [0])[-1] >= 30, "the third checkpoint in the store")
    _assert_no_key_of_the_store_on(machine)
    _kill_the_machine(machine)
    shutil.rmtree(machine)
    sshd.go_away()

    [checkpoint] = laptop.run("pull", "subject", "--json").summary["artifacts"]
    assert (checkpoint["kind"], 30 <= checkpoint["step"] < STEPS) == ("checkpoint", True)

    sshd.come_back()
    other = Cloudbooth(tmp_path / "other", (), {**s3_server.environ, "AWS_ENDPOINT_URL_S3": s3_server.endpoint_url})
    other.root.mkdir()
    assert other.kill_when(["resume", "subject", "--from", s3_store.url, "--json"], _training_begins)
    wait_until(lambda: "output" in _stored_kinds(s3_store), "the model in the store")
    _assert_no_key_of_the_store_on(machine, running=False)
    steps = [
        event["step"]
        for log in machine.glob("runs/*/events.jsonl")
        for event in _events(log)
        if event["type"] == "step"
    ]
    assert (min(steps), max(steps)) == (checkpoint["step"] + 1, STEPS), "it goes on where the checkpoint ends"
    _kill_the_machine(machine)
    shutil.rmtree(machine)
    sshd.go_away()

    brought = other.run("pull", "subject", "--json").summary["artifacts"]
    [model] = [artifact for artifact in brought if artifact["kind"] == "output"]
    assert model["step"] == STEPS
    assert (Path(model["folder"]) / "subject.safetensors").is_file()
    [run] = [key.split("/")[1] for key in _keys_of(s3_store) if key.endswith("/output/manifest.json")]
    at_the_store = ("--from", f"{s3_store.url}/runs/{run}", "--endpoint-url", s3_server.endpoint_url)
    [again] = other.run("pull", "subject", *at_the_store, "--json").summary["artifacts"]
    assert Path(again["folder"]) == other.root / "models" / "subject"
    assert (Path(again["folder"]) / "manifest.json").is_file()
    refused = laptop.run("resume", "subject-2", *at_the_store, check=8)
    assert "is done" in refused.stderr


def _training_begins(line: dict[str, Any]) -> bool:
    return line.get("type") == "state" and line.get("state") == "training"


def _events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line]


def _keys_of(store: ObjectStore) -> list[str]:
    return [found.key for found in store.objects("runs/")]


def _assert_no_key_of_the_store_on(machine: Path, *, running: bool = True) -> None:
    """Neither in a file, nor in the arguments or the environment of a process."""
    told = "".join(processes_naming(str(machine)))
    assert told or not running, "nothing runs there"
    secret = SECRET_KEY.encode()
    assert [path for path, content in files_below(machine) if secret in content] == []
    assert SECRET_KEY not in told
    assert not any(secret in environ for environ in _environments(machine))


def _environments(machine: Path) -> list[bytes]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(machine).encode() in (entry / "cmdline").read_bytes():
                found.append((entry / "environ").read_bytes())
        except OSError:
            continue
    return found
