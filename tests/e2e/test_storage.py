"""A run with object storage, on a real SSH host and a real S3 server: what is uploaded survives machine and laptop."""

from __future__ import annotations

import json
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
    """Of the checkpoints and models that the machine has uploaded."""
    return sorted(int(json.loads(index["manifest"])["step"]) for index in _indexes(store))


def _stored_kinds(store: ObjectStore) -> list[str]:
    return [index["kind"] for index in _indexes(store)]


def _indexes(store: ObjectStore) -> list[dict[str, str]]:
    keys = [found.key for found in store.objects("runs/") if found.key.rpartition("/")[2].startswith("index-")]
    return [index for index in (json.loads(store.get(key)) for key in keys) if index]


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


def test_a_run_that_ends_while_the_laptop_is_off_is_whole_in_the_store(
    cloudbooth: Cloudbooth, s3_server: S3Server, s3_store: ObjectStore
) -> None:
    laptop = cloudbooth
    laptop.machine = (
        "--set", f"storage.url={s3_store.url}", "--set", f"storage.endpoint_url={s3_server.endpoint_url}",
    )  # fmt: skip
    laptop.environ.update(s3_server.environ)
    argv = laptop.launch_argv("subject", "--steps", "8")
    assert laptop.kill_when(argv, lambda line: line.get("type") == "state" and line.get("state") == "training")
    wait_until(lambda: "output" in _stored_kinds(s3_store), "the model in the store", 120)
    work = laptop.root / "state" / "providers" / "local"
    _kill_the_machine(work)
    shutil.rmtree(work)

    [model] = laptop.run("pull", "subject", "--json").summary["artifacts"]
    assert (model["kind"], model["step"]) == ("output", 8)
    assert (laptop.models / "subject" / "subject.safetensors").is_file()
    at_the_store = ("--from", s3_store.url, "--endpoint-url", s3_server.endpoint_url)
    [again] = laptop.run("pull", "subject", *at_the_store, "--json").summary["artifacts"]
    assert (Path(again["folder"]) / "manifest.json").is_file()
    refused = laptop.run("resume", "subject-2", "--from", f"{s3_store.url}/runs/{_only_run(s3_store)}",
                         "--endpoint-url", s3_server.endpoint_url, check=8)  # fmt: skip
    assert "is done" in refused.stderr


def _only_run(store: ObjectStore) -> str:
    [name] = {found.key.split("/")[1] for found in store.objects("runs/")}
    return name
