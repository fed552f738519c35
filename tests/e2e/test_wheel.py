"""What a user installs: the wheel with its base dependencies, on a Python that has never seen torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.unit.recorded_run import RecordedRun

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with the built wheel, built and installed by pip as a user's would be."""
    root = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = root / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", root, source], check=True)
    [wheel] = root.glob("cloudbooth-*.whl")
    venv.create(root / "env", with_pip=False)
    python = root / "env" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "-c", ROOT / "constraints.txt", wheel], check=True)
    return root / "env" / "bin"


def run(installed: Path, *argv: str, home: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "CLOUDBOOTH_HOME": str(home)}
    return subprocess.run(
        [installed / "cloudbooth", *argv], env=environ, cwd=home, capture_output=True, text=True, check=True
    )


def test_a_plan_needs_no_torch(installed: Path, tmp_path: Path) -> None:
    assert subprocess.run([installed / "python", "-c", "import torch"], capture_output=True).returncode != 0
    shutil.copytree(ROOT / "examples" / "local", tmp_path / "example")
    done = run(installed, "plan", "example/robot.toml", "--json", home=tmp_path)
    plan = json.loads(done.stdout.splitlines()[0])
    assert (plan["type"], plan["train"]["steps"]) == ("plan", 400)
    assert "64×64" in run(installed, "plan", "example/robot.toml", home=tmp_path).stdout


def test_the_trainer_travels_from_the_wheel_as_from_a_checkout(installed: Path, tmp_path: Path) -> None:
    program = "from orchestrator.code_bundle import trainer_code; print(trainer_code().id)"
    ids = {
        subprocess.run([python, "-P", "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        for python in (installed / "python", sys.executable)
    }
    assert len(ids) == 1


def test_a_report_finds_its_template_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    recorded = RecordedRun(tmp_path)
    run(installed, "report", recorded.name, home=tmp_path)
    assert "<h1>dog</h1>" in (tmp_path / "dog-report.html").read_text()


def test_the_base_install_is_small_enough_for_a_laptop(installed: Path) -> None:
    packages = installed.parent / "lib"
    megabytes = sum(file.stat().st_size for file in packages.rglob("*") if file.is_file()) / 1e6
    assert megabytes < 150, f"{megabytes:.0f} MB"
