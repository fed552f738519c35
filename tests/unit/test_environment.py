"""Which Python the trainer runs on, decided without installing anything."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import threading
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remote_trainer import environment, interpreter
from remote_trainer.environment import (
    PIP_INSTALL,
    install_failure,
    torch_can_be_kept,
    torch_install_commands,
    venv_command,
    why_unfit,
)
from remote_trainer.errors import TrainingFailed
from remote_trainer.interpreter import Interpreter, parse_driver_cuda
from remote_trainer.requirements import (
    LOCK_FILE,
    Pin,
    lock_hash,
    missing_requirements,
    parse_lock,
    parse_ranges,
    satisfies,
    trainer_ranges,
)

ROOT = Path(__file__).parents[2]
RANGES = {"torch": ">=2.6,<3", "numpy": ">=2.0"}


# ---- the lock and the ranges


def test_a_lock_is_read_as_pins_in_order() -> None:
    text = (
        "# made by hand\nnumpy==2.4.6 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nhf-xet==1.8.0\n    # via x\n"
    )
    assert parse_lock(text) == [Pin("numpy", "2.4.6"), Pin("hf-xet", "1.8.0")]


@pytest.mark.parametrize("line", ["numpy>=2", "numpy==2 ; python_version < '3.12'", "-r other.txt"])
def test_a_lock_with_anything_but_pins_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="no pin"):
        parse_lock(line + "\n")


def test_the_shipped_lock_pins_every_requirement_except_torch_within_its_range() -> None:
    pins = {pin.name: pin.version for pin in parse_lock(LOCK_FILE.read_text())}
    ranges = trainer_ranges()
    assert ranges.keys() - pins.keys() == {"torch"}
    assert not missing_requirements({**pins, "torch": "2.13.0"}, ranges)


def test_every_pin_of_the_shipped_lock_has_a_hash_and_no_index_is_named() -> None:
    text = LOCK_FILE.read_text()
    blocks = re.split(r"\n(?=\S)", text)
    pinned = [block for block in blocks if "==" in block.splitlines()[0]]
    assert len(pinned) == len(parse_lock(text))
    assert all("--hash=sha256:" in block for block in pinned)
    assert "://" not in text
    assert "--index-url" not in text


def test_the_shipped_lock_agrees_with_the_constraints() -> None:
    constraints = {pin.name: pin.version for pin in parse_lock((ROOT / "constraints.txt").read_text())}
    for pin in parse_lock(LOCK_FILE.read_text()):
        assert constraints[pin.name] == pin.version


def test_the_ranges_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pillow = [line for line in project["dependencies"] if line.startswith("pillow")]
    wanted = parse_ranges("\n".join(project["optional-dependencies"]["train"] + pillow))
    assert trainer_ranges() == wanted


def test_what_the_trainer_imports_is_declared() -> None:
    files = (ROOT / "remote_trainer").rglob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    foreign = {name.partition(".")[0] for name in named} - sys.stdlib_module_names - {"remote_trainer"}
    optional = {"bitsandbytes"}
    distributions = {"PIL": "pillow", "yaml": "pyyaml"}
    assert {distributions.get(name, name) for name in foreign - optional} <= trainer_ranges().keys()


# ---- what satisfies


@pytest.mark.parametrize(
    ("version", "specifiers", "expected"),
    [
        ("2.6", ">=2.6,<3", True),
        ("2.13.0+cu128", ">=2.6,<3", True),
        ("2.13.0a0+git1", ">=2.6,<3", True),
        ("2.5.1", ">=2.6,<3", False),
        ("3.0", ">=2.6,<3", False),
        ("3.0.0", "==3", True),
        ("1.10", ">=1.9", True),
        ("1", "", True),
    ],
)
def test_a_version_satisfies_a_range_by_its_release_number(version: str, specifiers: str, expected: bool) -> None:
    assert satisfies(version, specifiers) is expected


def test_an_unreadable_range_is_an_error_not_a_pass() -> None:
    with pytest.raises(ValueError, match="~=2"):
        satisfies("2.0", "~=2")


def test_nothing_is_missing_from_an_interpreter_that_has_all() -> None:
    assert missing_requirements({"torch": "2.13.0+cu130", "numpy": "2.4.6", "other": "1"}, RANGES) == []


def test_what_is_missing_is_said_with_versions() -> None:
    assert missing_requirements({"torch": "2.4.1"}, RANGES) == [
        "torch 2.4.1 is not >=2.6,<3",
        "numpy is not installed",
    ]


def test_a_torch_for_the_cpu_does_not_do_where_cuda_is_needed() -> None:
    installed = {"torch": "2.13.0+cpu", "numpy": "2.4.6"}
    assert missing_requirements(installed, RANGES) == []
    assert missing_requirements(installed, RANGES, needs_cuda=True) == ["torch 2.13.0+cpu is built without CUDA"]


# ---- how torch is installed


@pytest.mark.parametrize(
    ("driver", "index"),
    [
        (None, "cpu"),
        ((13, 1), "cu130"),
        ((12, 9), "cu128"),
        ((12, 8), "cu128"),
        ((12, 4), "cu126"),
        ((11, 8), "cu118"),
        ((11, 4), "cpu"),
    ],
)
def test_torch_comes_from_the_index_that_fits_the_driver(driver: tuple[int, int] | None, index: str) -> None:
    first, *_ = torch_install_commands(driver, "py", False, {})
    assert f"https://download.pytorch.org/whl/{index}" in first


def test_plain_pip_is_the_last_resort() -> None:
    *_, last = torch_install_commands((12, 8), "py", True, {})
    assert last == ["py", "-m", "pip", "install", "--no-compile", "torch>=2.6,<3"]


def test_an_index_that_does_not_answer_is_given_up_soon() -> None:
    first, _ = torch_install_commands(None, "py", False, {})
    assert first[:9] == ["py", "-m", "pip", "install", "--no-compile", "--retries", "1", "--timeout", "15"]


def test_uv_installs_where_it_exists() -> None:
    first, _ = torch_install_commands(None, "py", True, {})
    assert first[:5] == ["uv", "pip", "install", "--python", "py"]


def test_a_pinned_torch_is_left_to_plain_pip() -> None:
    pinned = {"CLOUDBOOTH_TORCH": "torch==2.13.0"}
    assert torch_install_commands((12, 8), "py", True, pinned) == [["py", *PIP_INSTALL, "torch==2.13.0"]]


# ---- where the environment comes from

SYSTEM = Interpreter("/usr/bin/python3", (3, 12), False, {"torch": "2.8.0+cu128"})


def test_an_image_with_a_fitting_torch_keeps_it() -> None:
    assert torch_can_be_kept(SYSTEM, RANGES, needs_cuda=True)


@pytest.mark.parametrize(
    "change",
    [
        {"virtual": True},
        {"version": (3, 10)},
        {"version": (3, 14)},
        {"installed": {"torch": "2.4.0+cu121"}},
        {"installed": {"torch": "2.8.0+cpu"}},
        {"installed": {}},
    ],
)
def test_a_torch_that_does_not_fit_or_cannot_be_seen_is_not_kept(change: dict[str, Any]) -> None:
    assert not torch_can_be_kept(replace(SYSTEM, **change), RANGES, needs_cuda=True)


def test_an_environment_that_keeps_torch_sees_the_packages_of_the_image() -> None:
    command = venv_command(Path("/envs/x"), SYSTEM, has_uv=False, sees_base=True)
    assert command == ["/usr/bin/python3", "-m", "venv", "--system-site-packages", "/envs/x"]


def test_uv_brings_a_python_where_there_is_none() -> None:
    command = venv_command(Path("/envs/x"), None, has_uv=True, sees_base=False)
    assert command == ["uv", "venv", "--seed", "--python", "3.11", "/envs/x"]


def test_a_full_disk_is_named_as_such() -> None:
    failure = install_failure("torch could not be installed", "OSError: [Errno 28] No space left on device", "x")
    assert failure.code == "disk-full"


def test_a_failed_installation_carries_what_the_installer_said_last() -> None:
    failure = install_failure("torch could not be installed", "exit code 1\nno matching distribution", "try y")
    assert (failure.code, failure.hint) == ("environment", "try y")
    assert "no matching distribution" in failure.message


# ---- the machine


def test_the_driver_says_which_cuda_it_runs() -> None:
    banner = "| NVIDIA-SMI 570.86.10    Driver Version: 570.86.10    CUDA Version: 12.8     |"
    assert parse_driver_cuda(banner) == (12, 8)


def test_no_driver_is_no_cuda() -> None:
    assert parse_driver_cuda("") is None


def test_a_python_that_cannot_compute_on_a_gpu_is_refused() -> None:
    with pytest.raises(TrainingFailed) as refusal:
        interpreter.require_cuda("/bin/false")
    assert refusal.value.code == "no-gpu"
    assert "compute.allow_cpu=true" in refusal.value.hint


def test_probing_names_the_distributions_of_an_interpreter() -> None:
    found = interpreter.probe_interpreter(sys.executable)
    assert isinstance(found, Interpreter)
    assert found.version == sys.version_info[:2]
    assert "pytest" in found.installed


def test_a_path_that_is_no_interpreter_is_no_interpreter(tmp_path: Path) -> None:
    assert interpreter.probe_interpreter(str(tmp_path / "python")) is None
    assert interpreter.probe_interpreter("/bin/false") is None


# ---- what an earlier machine has built -------------------------------------------------------------------------------


def built_elsewhere(torch: str) -> Interpreter:
    return Interpreter("envs/1/bin/python", (3, 12), True, {"torch": torch, "numpy": "2.1"})


@pytest.mark.parametrize(
    ("torch", "driver", "unfit"),
    [
        ("2.9.0+cu130", (13, 0), ""),
        ("2.9.0+cu130", (12, 8), "its torch for cu130 needs a driver of CUDA 13.0"),
        ("2.9.0+cu128", (13, 0), ""),
        ("2.9.0", (12, 8), ""),
        ("2.9.0+cpu", (12, 8), "torch 2.9.0+cpu is built without CUDA"),
        ("2.4.1+cu128", (12, 8), "torch 2.4.1+cu128 is not >=2.6,<3"),
    ],
)
def test_an_environment_from_another_machine_is_used_where_its_torch_runs(
    torch: str, driver: tuple[int, int], unfit: str
) -> None:
    assert why_unfit(built_elsewhere(torch), RANGES, driver, needs_cuda=True) == unfit


def test_an_environment_whose_python_is_gone_does_not_do() -> None:
    assert why_unfit(None, RANGES, None, needs_cuda=False) == "it does not start on this machine"


def left_by_another(folder: Path, python: str) -> Path:
    """A complete environment, with `python` as its interpreter."""
    interpreter = folder / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text(f'#!/bin/sh\nexec "{python}" "$@"\n')
    interpreter.chmod(0o755)
    (folder / environment.COMPLETE_MARK).write_text("{}")
    return interpreter


def test_what_does_not_fit_is_left_alone_and_what_fits_is_used(tmp_path: Path) -> None:
    bare = Path(sys.base_prefix) / "bin" / "python3"
    wrong = left_by_another(tmp_path / lock_hash(), f"{bare}" if bare.exists() else "/bin/false")
    right = left_by_another(tmp_path / f"{lock_hash()}-2", sys.executable)
    said: list[str] = []
    assert environment.ensure_environment(tmp_path, said.append, allow_cpu=True, python="/bin/false") == right
    assert wrong.exists(), "another run may be at work with it"
    assert "is left alone" in said[0]
    assert said[1] == f"using the environment {lock_hash()}-2"


def test_what_runs_before_the_environment_is_python_3_9() -> None:
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    early = [path for pattern in ruff["per-file-ignores"] for path in ROOT.glob(pattern)]
    assert {"agent.py", "supervisor.py", "codec.py"} <= {path.name for path in early}
    for path in [*early, ROOT / "remote_trainer" / "errors.py", ROOT / "remote_trainer" / "requirements.py"]:
        ast.parse(path.read_text(), str(path), feature_version=(3, 9))


def test_choosing_the_environment_needs_the_standard_library_alone() -> None:
    code = "import remote_trainer.environment, sys; print(*{n.partition('.')[0] for n in sys.modules})"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"remote_trainer", "__main__"}
    assert foreign == set()


def test_an_installer_that_says_nothing_is_told_of_while_it_works() -> None:
    told: list[str] = []
    second = threading.Event()

    def report(line: str) -> None:
        told.append(line)
        if "so far: Downloading torch" in line:
            second.set()

    with environment._timed("installing torch", report, every_s=0.01) as heard:
        heard("Downloading torch-2.13.0.whl (190 MB)")
        assert second.wait(10)
    assert told[0] == "installing torch"
    assert told[-1] == "installing torch: done in 0 s"


def test_what_an_installer_says_is_passed_on_line_by_line() -> None:
    heard: list[str] = []
    assert environment._run([sys.executable, "-c", "print('one'); print('two')"], heard.append) is None
    assert heard == ["one", "two"]
