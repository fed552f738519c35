"""RunPod's adapter and real containers behind the fake: what a pod itself may call."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from orchestrator.boot_script import GuardSettings, start_command
from providers.api import BootPlan
from providers.runpod.provider import RunPodProvider
from tests.conftest import require_pods
from tests.contract.runpod_account import ACCOUNT_KEY, built, cheapest, rented
from tests.e2e.command import wait_until
from tests.fakes.pod import Process
from tests.fakes.runpod import FakeRunPod, running_runpod
from tests.fakes.sshd import make_key


@pytest.fixture
def provider(runpod: FakeRunPod, tmp_path: Path) -> RunPodProvider:
    return built(runpod, tmp_path)


@pytest.fixture
def real(tmp_path: Path) -> Iterator[tuple[FakeRunPod, RunPodProvider]]:
    require_pods()
    with running_runpod(tmp_path / "real", account_key=ACCOUNT_KEY) as fake:
        yield fake, built(fake, tmp_path)


def call_itself(runpod: FakeRunPod, provider: RunPodProvider, which: str, pod_id: str) -> int:
    """What the guard does inside, with the pod's own variables filled in."""
    release = provider.self_release(cheapest(provider))
    call = {"terminate": release.terminate, "stop": release.stop, "probe": release.probe}[which]
    assert call is not None
    own = {"${RUNPOD_POD_ID}": pod_id, "${RUNPOD_API_KEY}": runpod.pods[pod_id].key}

    def filled(text: str) -> str:
        for name, value in own.items():
            text = text.replace(name, value)
        return text

    headers = {name: filled(value) for name, value in call.headers.items()}
    return httpx.request(call.method, filled(call.url), headers=headers, content=filled(call.body)).status_code


def test_a_pod_proves_that_it_may_end_itself_and_does(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    machine = rented(provider)
    assert [call_itself(runpod, provider, "probe", machine) for _ in range(2)] == [200, 200]
    assert runpod.pods[machine].boots == 1
    assert call_itself(runpod, provider, "stop", machine) == 200
    assert runpod.pods[machine].status == "EXITED"
    assert call_itself(runpod, provider, "terminate", machine) == 204
    assert not provider.list("")


def test_the_start_command_runs_before_any_login_and_the_images_sshd_follows(
    real: tuple[FakeRunPod, RunPodProvider], tmp_path: Path
) -> None:
    runpod, provider = real
    key = make_key(tmp_path / "key")
    command = "printf '%s' \"it's $RUNPOD_POD_ID\" > /workspace/started\nsleep 4711 &"
    boot = BootPlan(start_command=command, authorized_key=key)
    machine = provider.create(cheapest(provider), boot, "cb-x")
    pod = runpod.pods[machine].machine
    pod.await_ssh()
    assert (pod.volume / "started").read_text() == f"it's {machine}"
    assert any(process.argv == ("sleep", "4711") for process in pod.processes())
    access = provider.describe(machine).access
    assert access is not None
    assert access.port == pod.port


def guarded(provider: RunPodProvider, tmp_path: Path, first_lease_s: int) -> tuple[BootPlan, Path, str]:
    """(the boot plan of a run with a guard, its login key, the public half of its host key)."""
    offer = cheapest(provider)
    key, host_key = make_key(tmp_path / "key"), make_key(tmp_path / "host_key")
    command = start_command(
        provider.self_release(offer), GuardSettings(offer.workdir, first_lease_s, poll_s=0.1),
        authorized_key=key, host_key_private=(tmp_path / "host_key").read_text(),
    )  # fmt: skip
    return BootPlan(disk_gb=30, start_command=command, authorized_key=key), tmp_path / "key", host_key


def test_a_run_logs_in_with_its_key_at_a_pod_that_shows_the_host_key_made_for_it(
    real: tuple[FakeRunPod, RunPodProvider], tmp_path: Path
) -> None:
    runpod, provider = real
    boot, key, host_key = guarded(provider, tmp_path, first_lease_s=600)
    machine = provider.create(cheapest(provider), boot, "cb-x")
    pod = runpod.pods[machine].machine
    pod.await_ssh()
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{pod.port} {host_key}\n")
    options = ["-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={known}", "-i", str(key)]
    argv = ["ssh", *options, "-p", str(pod.port), "root@127.0.0.1", "echo in"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "in\n"), done.stderr


def test_the_guard_proves_that_it_may_end_the_pod(real: tuple[FakeRunPod, RunPodProvider], tmp_path: Path) -> None:
    runpod, provider = real
    boot, _, _ = guarded(provider, tmp_path, first_lease_s=600)
    machine = provider.create(cheapest(provider), boot, "cb-x")
    log = runpod.pods[machine].machine.volume / "cloudbooth" / "guard" / "log"
    wait_until(lambda: log.exists() and "probe: 200" in log.read_text(), "the probe is answered")


def test_a_pod_that_nobody_ever_logs_in_to_deletes_itself(
    real: tuple[FakeRunPod, RunPodProvider], tmp_path: Path
) -> None:
    runpod, provider = real
    boot, _, _ = guarded(provider, tmp_path, first_lease_s=1)
    machine = provider.create(cheapest(provider), boot, "cb-x")
    wait_until(lambda: runpod.pods[machine].gone_at is not None, "the guard has ended the pod")
    assert not provider.list("")


def test_the_accounts_key_is_nowhere_on_a_pod(real: tuple[FakeRunPod, RunPodProvider]) -> None:
    runpod, provider = real
    machine = rented(provider)
    pod = runpod.pods[machine].machine
    pod.await_ssh()
    processes: list[Process] = pod.processes()
    assert processes
    assert not [process for process in processes if ACCOUNT_KEY in str(process)]
    files = [file for root in (pod.disk, pod.volume) for file in root.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if ACCOUNT_KEY.encode() in file.read_bytes()]
    assert ACCOUNT_KEY not in pod.log + provider.logs(machine)


def test_a_container_that_ends_comes_back_at_another_port(real: tuple[FakeRunPod, RunPodProvider]) -> None:
    runpod, provider = real
    machine = rented(provider)
    pod = runpod.pods[machine].machine
    pod.await_ssh()
    before = pod.port
    pod.end_main_process()
    wait_until(lambda: runpod.pods[machine].boots == 2 and pod.runs, "the container runs again")
    pod.await_ssh()
    access = provider.describe(machine).access
    assert access is not None
    assert access.port == pod.port != before
