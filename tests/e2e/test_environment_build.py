"""A host with nothing but Python gets an environment that can train: the real build, once, by a launch over SSH."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import venv
from pathlib import Path

import pytest

from remote_trainer import environment, interpreter, requirements
from tests.conftest import require_sshd
from tests.e2e.command import PATIENCE_S, Cloudbooth, Finished
from tests.fakes.sshd import make_key, running_sshd, sshd_binary

ROOT = Path(__file__).parents[2]

ENSURE = """
import sys
from pathlib import Path
from remote_trainer.environment import ensure_environment
said = []
python = ensure_environment(Path(sys.argv[1]), said.append)
print("reported:", *said, sep="\\n  ")
print("python:", python)
"""


def installer_settings() -> dict[str, str]:
    """What tells pip and uv where packages come from; a host has its own, this one has ours."""
    given = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "CLOUDBOOTH_TORCH"))}
    return {"CLOUDBOOTH_TORCH": "torch==2.13.0", **given}


class BareHost:
    """A Python without packages, and a work folder without environments."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.envs = self.work / "envs"
        venv.create(folder / "bare", with_pip=False)
        self.python = str(folder / "bare" / "bin" / "python")
        self.log = folder / "build.log"

    def start(self) -> subprocess.Popen[bytes]:
        environ = {**os.environ, **installer_settings(), "PYTHONPATH": str(ROOT)}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [self.python, "-c", ENSURE, str(self.envs)],
                env=environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ensure(self) -> Path:
        exit_code = self.start().wait(timeout=1800)
        text = self.log.read_text()
        assert exit_code == 0, text[-4000:]
        return Path(text.rpartition("python: ")[2].strip())


@pytest.fixture(scope="module")
def bare_host(tmp_path_factory: pytest.TempPathFactory) -> BareHost:
    return BareHost(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def interrupted(bare_host: BareHost) -> BareHost:
    """A first attempt was killed in the middle: what it left must not be taken for an environment."""
    first = bare_host.start()
    unfinished = bare_host.envs / f"{requirements.lock_hash()}.unfinished"
    deadline = time.monotonic() + PATIENCE_S
    while not (unfinished / "pyvenv.cfg").exists():
        assert first.poll() is None, bare_host.log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (bare_host.envs / requirements.lock_hash()).exists()
    return bare_host


@pytest.fixture(scope="module")
def launches(interrupted: BareHost, tmp_path_factory: pytest.TempPathFactory) -> list[Finished]:
    """Two, one after the other, to that host over SSH."""
    require_sshd()
    folder = tmp_path_factory.mktemp("ssh")
    key = folder / "home" / ".ssh" / "id_ed25519"
    with running_sshd(folder / "sshd", [make_key(key)], environ=installer_settings()) as sshd:
        sshd.write_known_hosts(key.with_name("known_hosts"))
        access = sshd.access()
        settings = {"port": sshd.port, "python": interrupted.python, "workdir": interrupted.work, "identity_file": key}
        sets = [part for name, value in settings.items() for part in ("--set", f"compute.ssh.{name}={value}")]
        home = {"HOME": str(folder / "home"), "SSH_AUTH_SOCK": str(folder / "no-agent")}
        laptop = Cloudbooth(folder, ("--host", f"{access.user}@{access.host}", *sets), home)
        return [laptop.run(*laptop.launch_argv(name, "--steps", "4"), timeout_s=1800) for name in ("first", "second")]


@pytest.fixture(scope="module")
def built(request: pytest.FixtureRequest, interrupted: BareHost) -> Path:
    """By the first launch; where there is no SSH server, by what that launch calls on the host."""
    if sshd_binary() is None:
        return interrupted.ensure()
    request.getfixturevalue("launches")
    return interrupted.envs / requirements.lock_hash() / "bin" / "python"


def said_of_the_environment(launch: Finished) -> str:
    events = [line["event"] for line in launch.lines if line["type"] == "event"]
    return "\n".join(e["detail"] for e in events if e["type"] == "phase" and e["name"] == "environment")


def test_a_launch_to_a_bare_host_builds_what_it_needs_and_trains(launches: list[Finished]) -> None:
    first = launches[0]
    assert first.summary["reason"] == "done"
    [seconds] = re.findall(r"environment built in (\d+) s", said_of_the_environment(first))
    print(f"environment built in {seconds} s")


def test_the_next_launch_uses_what_the_first_built(launches: list[Finished]) -> None:
    second = launches[1]
    assert second.summary["reason"] == "done"
    assert f"using the environment {requirements.lock_hash()}" in said_of_the_environment(second)
    assert "installing" not in said_of_the_environment(second)


def test_a_bare_host_gets_every_pinned_version(built: Path) -> None:
    found = interpreter.probe_interpreter(str(built))
    assert found is not None
    pins = {pin.name: pin.version for pin in requirements.parse_lock(requirements.LOCK_FILE.read_text())}
    assert {name: found.installed.get(name) for name in pins} == pins


def test_the_built_environment_can_run_the_trainer(built: Path) -> None:
    code = (
        "import torch, diffusers, peft; from transformers import CLIPTextModel, CLIPTokenizer;"
        "from diffusers import StableDiffusionPipeline; print(torch.ones(2).sum().item())"
    )
    done = subprocess.run([built, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "2.0", done.stderr[-2000:]


def test_the_second_run_uses_what_the_first_built(bare_host: BareHost, built: Path) -> None:
    told = bare_host.log.stat().st_size
    assert bare_host.ensure() == built
    assert "using the environment" in (said := bare_host.log.read_text()[told:])
    assert "creating" not in said


def test_an_interpreter_that_has_everything_is_used_as_it_is(built: Path, tmp_path: Path) -> None:
    said: list[str] = []
    chosen = environment.ensure_environment(tmp_path / "envs", said.append, python=str(built), allow_cpu=True)
    assert chosen == built
    assert not (tmp_path / "envs").exists()


def test_nothing_unfinished_stays_behind(bare_host: BareHost, built: Path) -> None:
    assert built.exists()
    names = {path.name for path in bare_host.envs.iterdir()}
    assert names == {requirements.lock_hash(), f"{requirements.lock_hash()}.lock"}
