"""Somebody between the laptop and a rented machine: found out at the first connection, and told nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require_sshd
from tests.e2e.command import PATIENCE_S, Cloudbooth, Finished, wait_until
from tests.fakes.runpod import FakeRunPod, running_runpod
from tests.fakes.sshd import Sshd, running_sshd

CANCELED = 7


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Sshd]:
    require_sshd()
    with running_sshd(tmp_path / "impostor") as server:
        yield server


@pytest.fixture
def runpod(tmp_path: Path, impostor: Sshd, cloudbooth: Cloudbooth) -> Iterator[FakeRunPod]:
    """Its pods answer at the impostor's port, once a test gives them an address."""
    with running_runpod(tmp_path / "runpod", real_pods=False, ssh_port=impostor.port, address_after_s=3600) as fake:
        cloudbooth.environ |= fake.environ
        yield fake


def login(cloudbooth: Cloudbooth, impostor: Sshd) -> str:
    """What a command says there for somebody who has the run's key and looks at no host key."""
    [identity] = cloudbooth.root.rglob("identity")
    careless = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    argv = ["ssh", "-i", str(identity), "-p", str(impostor.port), *careless, impostor.address, "echo in"]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE_S).stdout


def test_another_host_key_at_the_first_connection_gets_no_login_and_the_machine_goes_back(
    cloudbooth: Cloudbooth, runpod: FakeRunPod, impostor: Sshd
) -> None:
    rented = ("--provider", "runpod", "--set", "compute.allow_cpu=true", "--set", "compute.disk_gb=20", "--yes")
    with cloudbooth.started(*cloudbooth.launch_argv("dog", *rented)) as driver:
        assert driver.stdout is not None
        wait_until(lambda: bool(runpod.pods), "a rented pod")
        [pod] = runpod.pods.values()
        impostor.authorized_keys.write_text(pod.request["env"]["PUBLIC_KEY"] + "\n")
        pod.address = True
        refused = next(line for line in driver.stdout if "and not the pinned SHA256:" in line)
        seen = impostor.log
        assert login(cloudbooth, impostor) == "in\n", "the impostor lets nobody in: nothing was refused to it"
        down = cloudbooth.run("down", "dog", check=None)
        rest, stderr = driver.communicate(timeout=PATIENCE_S)

    assert "waiting for the machine" in refused
    assert "Connection from" in seen
    assert "publickey" not in seen, "a login was tried"
    assert list((impostor.home).iterdir()) == []
    assert impostor.log.count("Accepted publickey") == 1, "only the one of this test"
    done = Finished(driver.returncode, rest, stderr)
    assert (done.exit_code, done.summary["reason"]) == (CANCELED, "canceled"), down.stderr
    assert pod.gone_at is not None
    assert f"{done.summary['cost_usd']:.2f}" == f"{runpod.billed_usd():.2f}"
    assert "Traceback" not in stderr + down.stderr
