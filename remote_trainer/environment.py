"""Chooses or builds the Python environment that the trainer runs in.

Standard library only, Python 3.9 or later: it runs on whatever interpreter a rented image brings. An interpreter
that has the trainer's requirements is used as it is. Otherwise one environment per lock is built beside the runs:
torch first, from the index that fits the graphics driver, then `requirements.lock` with hashes. An image's own torch
with CUDA is kept, since it is gigabytes and known to fit.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Optional

from .errors import TrainingFailed
from .interpreter import Interpreter, ask, driver_cuda, probe_interpreter
from .requirements import LOCK_FILE, lock_hash, missing_requirements, parse_lock, trainer_ranges

COMPLETE_MARK = "complete.json"
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
"""What requirements.lock was resolved for."""
TOLD_EVERY_S = 10.0
TOLD_CHARACTERS = 100
"""Of an installer's line."""
PIP_INSTALL = ("-m", "pip", "install", "--no-compile")
"""As uv does by itself: of eleven thousand modules a training imports three thousand, which Python compiles then."""
TORCH_INDEX = "https://download.pytorch.org/whl/"
TORCH_VARIABLE = "CLOUDBOOTH_TORCH"
"""Pins the torch requirement (`torch==2.13.0`), which is then left to pip and its own configuration."""

_CUDA_INDEXES = (((13, 0), "cu130"), ((12, 8), "cu128"), ((12, 0), "cu126"), ((11, 8), "cu118"))
"""Oldest driver of each index, newest first. Drivers run every minor version of their major one: 12.0 runs cu126."""


# ---- what to install ----------------------------------------------------------------------------------------


def torch_install_commands(
    nvidia_driver_cuda: Optional[tuple[int, int]], python: str, has_uv: bool, environ: Mapping[str, str]
) -> list[list[str]]:
    """Ways to install torch for `python`, to be tried in order until one succeeds.

    `nvidia_driver_cuda` is the newest CUDA the driver runs, None without a GPU. PyPI comes last: its Linux build
    brings CUDA along, which a machine without a GPU need not download.
    """
    pip = [python, *PIP_INSTALL]
    pinned = environ.get(TORCH_VARIABLE, "").strip()
    if pinned:
        return [[*pip, pinned]]
    requirement = "torch" + trainer_ranges()["torch"]
    install = ["uv", "pip", "install", "--python", python] if has_uv else [*pip, "--retries", "1", "--timeout", "15"]
    build = "cpu"
    if nvidia_driver_cuda is not None:
        fitting = [name for oldest, name in _CUDA_INDEXES if nvidia_driver_cuda >= oldest]
        build = fitting[0] if fitting else "cpu"
    return [[*install, "--index-url", TORCH_INDEX + build, requirement], [*pip, requirement]]


def torch_can_be_kept(interpreter: Interpreter, ranges: Mapping[str, str], *, needs_cuda: bool) -> bool:
    """Whether an environment made from `interpreter` can use its torch instead of a second one.

    Not when it is a virtual environment itself: its children see the packages of its parent, not its own.
    """
    torch = {"torch": ranges["torch"]}
    missing = missing_requirements(interpreter.installed, torch, needs_cuda=needs_cuda)
    return _usable(interpreter) and not interpreter.virtual and not missing


def why_unfit(
    built: Optional[Interpreter],
    ranges: Mapping[str, str],
    driver_cuda: Optional[tuple[int, int]],
    *,
    needs_cuda: bool,
) -> str:
    """What keeps an environment from being used on a machine with this driver; empty when nothing does.

    It may have been built elsewhere: upon the packages of another image, or for a newer driver. A torch that does not
    name its CUDA is believed.
    """
    if built is None:
        return "it does not start on this machine"
    missing = missing_requirements(built.installed, ranges, needs_cuda=needs_cuda)
    if missing:
        return "; ".join(missing)
    build = built.installed["torch"].partition("+")[2]
    oldest = {name: oldest for oldest, name in _CUDA_INDEXES}.get(build)
    if needs_cuda and oldest is not None and driver_cuda is not None and driver_cuda < oldest:
        return "its torch for {} needs a driver of CUDA {}.{}".format(build, *oldest)
    return ""


def venv_command(folder: Path, base: Optional[Interpreter], *, has_uv: bool, sees_base: bool) -> list[str]:
    """Creates `folder` with pip inside, from `base`; without one, from a Python that uv brings.

    `sees_base` lets it use the packages of `base`, of which its own take precedence.
    """
    system = ["--system-site-packages"] if sees_base else []
    if not has_uv and base is not None:
        return [base.path, "-m", "venv", *system, str(folder)]
    wanted = base.path if base is not None else "{}.{}".format(*OLDEST_PYTHON)
    return ["uv", "venv", "--seed", "--python", wanted, *system, str(folder)]


# ---- building ------------------------------------------------------------------------------------------------------


def ensure_environment(
    envs_folder: Path, report: Callable[[str], None], *, allow_cpu: bool = False, python: str = sys.executable
) -> Path:
    """The interpreter to run the trainer with: `python` if it has what is needed, else that of a built environment.

    Blocks for minutes while it builds, or while another process builds the same; what pip says goes to stdout. Twice
    is safe and quick. A build that was killed is removed and begun again. One that was built for another machine, on a
    volume that goes from one to the next, stays as it is, and what fits here is built beside it. Raises
    TrainingFailed("environment").
    `allow_cpu` accepts a torch without CUDA on a machine that has a GPU.
    """
    ranges = trainer_ranges()
    cuda = driver_cuda()
    needs_cuda = cuda is not None and not allow_cpu
    current = probe_interpreter(python)
    if current is not None and not missing_requirements(current.installed, ranges, needs_cuda=needs_cuda):
        report(f"using {python}: it has everything")
        return Path(python)
    envs_folder.mkdir(parents=True, exist_ok=True)
    first = envs_folder.resolve() / lock_hash()
    with _only_one_build(first.with_name(first.name + ".lock"), report):
        for folder in _places(first):
            if not _is_complete(folder):
                break
            unfit = why_unfit(probe_interpreter(str(_python_of(folder))), ranges, cuda, needs_cuda=needs_cuda)
            if not unfit:
                report(f"using the environment {folder.name}")
                return _python_of(folder)
            report(f"the environment {folder.name} is left alone: {unfit}")
        started = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        unfinished = folder.with_name(folder.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        _build(unfinished, current, cuda, needs_cuda, ranges, report)
        mark = {"seconds": round(time.monotonic() - started, 1)}
        (unfinished / COMPLETE_MARK).write_text(json.dumps(mark), encoding="utf-8")
        # `python -m` does not mind the move: only the scripts in bin/ name the old place, and nothing calls them.
        unfinished.rename(folder)
        report(f"environment built in {time.monotonic() - started:.0f} s")
    return _python_of(folder)


def _build(
    folder: Path,
    current: Optional[Interpreter],
    cuda: Optional[tuple[int, int]],
    needs_cuda: bool,
    ranges: Mapping[str, str],
    report: Callable[[str], None],
) -> None:
    has_uv = shutil.which("uv") is not None
    base = _choose_base(current, has_uv)
    keeps_torch = base is not None and torch_can_be_kept(base, ranges, needs_cuda=needs_cuda)
    with _timed("creating a Python environment", report) as heard:
        command = venv_command(folder, base, has_uv=has_uv, sees_base=keeps_torch)
        _run_or_fail(command, "a Python environment could not be created", heard)
    python = str(_python_of(folder))
    if not keeps_torch:
        with _timed("installing torch", report) as heard:
            _first_that_works(torch_install_commands(cuda, python, has_uv, os.environ), report, heard)
    with _timed(
        f"installing {len(parse_lock(LOCK_FILE.read_text(encoding='utf-8')))} pinned packages", report
    ) as heard:
        install = ["uv", "pip", "install", "--python", python] if has_uv else [python, *PIP_INSTALL]
        # Without dependencies: the lock is complete, and torch, which it leaves out, is there already.
        command = [*install, "--no-deps", "--require-hashes", "-r", str(LOCK_FILE)]
        _run_or_fail(command, "the trainer's packages could not be installed", heard)
    built = probe_interpreter(python)
    missing = missing_requirements(built.installed if built else {}, ranges, needs_cuda=needs_cuda)
    if missing:
        raise TrainingFailed(
            "environment",
            f"the environment just built lacks something: {'; '.join(missing)}",
            f"set {TORCH_VARIABLE} to a requirement that fits this machine, such as `torch==2.13.0`",
        )


def _choose_base(current: Optional[Interpreter], has_uv: bool) -> Optional[Interpreter]:
    """An interpreter that can carry the environment; None leaves the choice to uv. Raises when there is neither."""
    versions = range(NEWEST_PYTHON[1], OLDEST_PYTHON[1] - 1, -1)
    found = [probe_interpreter(path) for path in filter(None, (shutil.which(f"python3.{v}") for v in versions))]
    candidates = [each for each in (current, *found) if each is not None and _usable(each)]
    if has_uv:
        return candidates[0] if candidates else None
    for each in candidates:
        if ask([each.path, "-c", "import venv, ensurepip"], timeout_s=60.0) is not None:
            return each
    if candidates:
        version = "{}.{}".format(*candidates[0].version)
        raise TrainingFailed(
            "environment",
            f"{candidates[0].path} cannot create environments: it lacks ensurepip",
            f"apt install python3-venv python{version}-venv, or install uv: "
            "curl -LsSf https://astral.sh/uv/install.sh | sh",
        )
    oldest, newest = ("{}.{}".format(*each) for each in (OLDEST_PYTHON, NEWEST_PYTHON))
    raise TrainingFailed(
        "environment",
        f"there is no Python {oldest} to {newest} on this machine",
        f"apt install python{oldest} python{oldest}-venv, or install uv, which brings its own: "
        "curl -LsSf https://astral.sh/uv/install.sh | sh",
    )


def _usable(interpreter: Interpreter) -> bool:
    return OLDEST_PYTHON <= interpreter.version <= NEWEST_PYTHON


def _first_that_works(
    commands: Sequence[Sequence[str]], report: Callable[[str], None], heard: Callable[[str], None]
) -> None:
    for attempt, command in enumerate(commands, start=1):
        output = _run(command, heard)
        if output is None:
            return
        if attempt < len(commands):
            report(f"that did not work, trying another source: {output.splitlines()[-1]}")
            continue
        hint = f"install it yourself, or name what fits this machine: export {TORCH_VARIABLE}='torch==2.13.0'"
        raise install_failure("torch could not be installed", output, hint)


def _run_or_fail(command: Sequence[str], message: str, heard: Callable[[str], None]) -> None:
    output = _run(command, heard)
    if output is not None:
        raise install_failure(message, output, "the whole output is in train.log")


def install_failure(message: str, output: str, hint: str) -> TrainingFailed:
    """What ends the run when an installer failed with this `output`; a full disk is named as such."""
    if "No space left on device" in output:
        return TrainingFailed(
            "disk-full",
            f"{message}: the disk is full",
            "free some space, and set TMPDIR to a larger disk if /tmp is small; torch with CUDA takes 8 GB",
        )
    return TrainingFailed("environment", f"{message}: {output}", hint)


def _run(command: Sequence[str], heard: Callable[[str], None] = lambda _line: None) -> Optional[str]:
    """None when it succeeded, else the end of what it said. Its output passes through to ours as it comes, and each
    line of it goes to `heard`.
    """
    last: collections.deque[str] = collections.deque(maxlen=12)
    # For uv, what `--retries 1 --timeout 15` is for pip: a machine without that index finds out soon.
    environ = {"UV_HTTP_TIMEOUT": "30", "UV_HTTP_RETRIES": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **os.environ}
    print("+", *command, flush=True)
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environ
        )
    except OSError as error:
        return str(error)
    with child:
        assert child.stdout is not None
        for raw in child.stdout:
            line = raw.decode(errors="replace").rstrip()
            print(line, flush=True)
            if line:
                last.append(line)
                heard(line)
    return None if child.returncode == 0 else "\n".join([f"exit code {child.returncode}", *last])


def _python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def _places(first: Path) -> Iterator[Path]:
    """Where environments of one lock lie, in the order in which they were built."""
    yield first
    for number in itertools.count(2):
        yield first.with_name(f"{first.name}-{number}")


def _is_complete(folder: Path) -> bool:
    """The interpreter is a link to the one it was made from, which an upgrade may have taken away."""
    return (folder / COMPLETE_MARK).is_file() and _python_of(folder).is_file()


@contextlib.contextmanager
def _only_one_build(path: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Waits for other builders of the same environment. The kernel frees the lock of a process that was killed."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another run that builds the same environment")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _timed(what: str, report: Callable[[str], None], every_s: float = TOLD_EVERY_S) -> Iterator[Callable[[str], None]]:
    """Reports beginning and end, and every `every_s` seconds between them for how long it has been at work, with the
    last line that the yielded function was told. An installer may be silent for minutes while it downloads.
    """
    report(what)
    started = time.monotonic()
    last = ""
    over = threading.Event()

    def hear(line: str) -> None:
        nonlocal last
        last = line.strip()[:TOLD_CHARACTERS]

    def tell() -> None:
        while not over.wait(every_s):
            report(f"{what}: {time.monotonic() - started:.0f} s so far{': ' if last else ''}{last}")

    teller = threading.Thread(target=tell, name="told", daemon=True)
    teller.start()
    try:
        yield hear
    finally:
        over.set()
        teller.join()
    report(f"{what}: done in {time.monotonic() - started:.0f} s")
