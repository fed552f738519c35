"""The pods that the fakes of the services rent out: real enough to believe what is tested on them."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require_pods
from tests.fakes.pod import START, Meter, Pod
from tests.fakes.sshd import make_key


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    require_pods()
    made = Pod(tmp_path / "pod")
    yield made
    made.kill()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "key")
    return tmp_path / "key"


def boot(pod: Pod, key: Path, command: str = "true", **env: str) -> None:
    public = Path(f"{key}.pub").read_text()
    pod.boot(["sh", "-c", f"{command}\nexec {START}"], {"PUBLIC_KEY": public, **env})
    pod.await_ssh()


def ssh(pod: Pod, key: Path, command: str) -> str:
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    argv = ["ssh", "-i", str(key), "-p", str(pod.port), *options, "root@127.0.0.1", command]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout


def test_its_start_command_runs_in_its_own_environment_and_root(pod: Pod, key: Path) -> None:
    boot(pod, key, "echo $MARK > /etc/mark; echo $MARK > /dev/shm/mark; echo $MARK > /workspace/mark", MARK="m7")
    assert ssh(pod, key, "cat /etc/mark /dev/shm/mark /workspace/mark") == "m7\n" * 3
    assert not Path("/etc/mark").exists()
    assert not Path("/dev/shm/mark").exists()


def test_a_host_key_placed_by_the_start_command_is_shown(pod: Pod, key: Path) -> None:
    boot(pod, key, "ssh-keygen -q -t ed25519 -N '' -C mine -f /etc/ssh/ssh_host_ed25519_key")
    scan = ["ssh-keyscan", "-T", "5", "-t", "ed25519", "-p", str(pod.port), "127.0.0.1"]
    shown = subprocess.run(scan, capture_output=True, text=True, check=True).stdout
    kind, blob, comment = (pod.disk / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
    assert comment == "mine"
    assert f"{kind} {blob}" in shown


def test_only_the_volume_outlives_a_boot(pod: Pod, key: Path) -> None:
    boot(pod, key, "touch /workspace/kept /root/lost")
    pod.kill()
    boot(pod, key)
    assert ssh(pod, key, "ls /workspace; ls /root/lost || true") == "kept\n"


def test_no_process_outlives_it(pod: Pod, key: Path) -> None:
    boot(pod, key, "setsid sh -c 'sleep 4242; true' &")
    assert [process for process in pod.processes() if "4242" in process.argv]
    pod.kill()
    assert "sleep 4242" not in subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True).stdout
    assert not pod.answers_ssh()


def test_the_end_of_its_main_process_is_noticed(pod: Pod, key: Path) -> None:
    exited = threading.Event()
    pod.exited = exited.set
    boot(pod, key)
    pod.end_main_process()
    assert exited.wait(5)


def test_a_meter_counts_each_rate_for_its_time() -> None:
    now = 0.0
    meter = Meter(lambda: now)
    meter.run_at(3.6)
    now = 100.0
    meter.run_at(0.36)
    now = 1100.0
    meter.run_at(0.0)
    now = 5000.0
    assert meter.cents == 20
