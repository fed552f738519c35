"""A host with nothing but Python gets an environment that can train: the real build, once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import venv
from pathlib import Path

import pytest

from remote_trainer import environment, requirements

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


class BareHost:
    """A Python without packages, and an empty folder for environments."""

    def __init__(self, folder: Path) -> None:
        self.envs = folder / "envs"
        venv.create(folder / "bare", with_pip=False)
        self.python = str(folder / "bare" / "bin" / "python")
        self.log = folder / "build.log"

    def start(self) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        environ.setdefault("CLOUDBOOTH_TORCH", "torch==2.13.0")
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [self.python, "-c", ENSURE, str(self.envs)],
                env=environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ensure(self) -> tuple[Path, float]:
        started = time.monotonic()
        exit_code = self.start().wait(timeout=1800)
        text = self.log.read_text()
        assert exit_code == 0, text[-4000:]
        return Path(text.rpartition("python: ")[2].strip()), time.monotonic() - started


@pytest.fixture(scope="module")
def bare_host(tmp_path_factory: pytest.TempPathFactory) -> BareHost:
    return BareHost(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def built(bare_host: BareHost) -> Path:
    """Built after a first attempt was killed in the middle: what it left must not be taken for an environment."""
    first = bare_host.start()
    unfinished = bare_host.envs / f"{requirements.lock_hash()}.unfinished"
    deadline = time.monotonic() + 120
    while not (unfinished / "pyvenv.cfg").exists():
        assert first.poll() is None, bare_host.log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (bare_host.envs / requirements.lock_hash()).exists()
    python, seconds = bare_host.ensure()
    print(f"environment built in {seconds:.0f} s")
    return python


def test_a_bare_host_gets_every_pinned_version(built: Path) -> None:
    found = environment.probe_interpreter(str(built))
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
    again = [bare_host.ensure() for _ in range(3)]
    assert {python for python, _ in again} == {built}
    assert min(seconds for _, seconds in again) < 1.0  # the others may have shared the processor


def test_an_interpreter_that_has_everything_is_used_as_it_is(built: Path, tmp_path: Path) -> None:
    said: list[str] = []
    chosen = environment.ensure_environment(tmp_path / "envs", said.append, python=str(built), allow_cpu=True)
    assert chosen == built
    assert not (tmp_path / "envs").exists()


def test_nothing_unfinished_stays_behind(bare_host: BareHost, built: Path) -> None:
    assert built.exists()
    names = {path.name for path in bare_host.envs.iterdir()}
    assert names == {requirements.lock_hash(), f"{requirements.lock_hash()}.lock"}
