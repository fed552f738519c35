"""Our losses and our speed beside diffusers' own DreamBooth scripts.

pytest -m benchmark -s tests/benchmarks/test_reference.py --reference-scripts FOLDER
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from remote_trainer import wire
from tests.benchmarks.sized_bases import MID, MID_LEAN, TINY, Size, build
from tests.trainer.tiny_runs import CLASS_PROMPT, PROMPT, SIDE, build_base, our_losses, photo_set, tiny_job, write_photo

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[2]
SCRIPTS = {"full": "train_dreambooth.py", "lora": "train_dreambooth_lora.py"}
RATE = 1e-4


@pytest.fixture(scope="session")
def scripts(request: pytest.FixtureRequest) -> Path:
    given = request.config.getoption("--reference-scripts")
    if not given:
        pytest.skip("give the scripts of huggingface/diffusers, examples/dreambooth, by --reference-scripts FOLDER")
    return Path(given).resolve()


@pytest.mark.benchmark
@pytest.mark.parametrize(("method", "prior"), [("full", False), ("lora", False), ("full", True)])
def test_every_loss_is_that_of_the_script(method: Any, prior: bool, scripts: Path, tmp_path: Path) -> None:
    base = build_base(tmp_path / "base", "epsilon")
    run, batch_size, side = tmp_path / "run", 2, SIDE
    sets = [photo_set(run, "instance", 4)] + [photo_set(run, "class", 4)] * prior
    job = tiny_job(*sets, method=method, steps=20, batch_size=batch_size, learning_rate=RATE)
    files = {spec.role: [str(run / spec.folder / image.file) for image in spec.images] for spec in sets}
    keyed = {
        "seed": job.train.seed, "batch_size": batch_size, "latent_shape": [4, side // 2, side // 2],
        "instance": files["instance"], "class_": files.get("class", []),
    }  # fmt: skip
    (tmp_path / "keyed.json").write_text(json.dumps(keyed))
    extra = (
        ["--with_prior_preservation", "--class_data_dir", str(run / "class"), "--class_prompt", CLASS_PROMPT,
         "--num_class_images", "4", "--prior_loss_weight", "1.0"] if prior else []
    )  # fmt: skip
    theirs = run_script(scripts, job, base, run, side, tmp_path, tmp_path / "keyed.json", extra)
    assert our_losses(job, run, base) == pytest.approx([step.loss for step in theirs.steps], abs=1e-5)


# ---- processes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    number: int
    loss: float
    wall_s: float
    """Since the process was started."""
    cpu_s: float


@dataclass(frozen=True)
class Ran:
    steps: tuple[Step, ...]
    evaluated_wall_s: float = 0.0
    """Before the first step, of what the scripts do not do: the loss over the fixed samples at step 0."""
    evaluated_cpu_s: float = 0.0

    @property
    def first(self) -> Step:
        return self.steps[0]

    def per_step(self) -> tuple[float, float]:
        """Wall and processor seconds, between the first and the last step."""
        last, passed = self.steps[-1], self.steps[-1].number - self.first.number
        return (last.wall_s - self.first.wall_s) / passed, (last.cpu_s - self.first.cpu_s) / passed


def run_script(
    scripts: Path,
    job: wire.Job,
    base: Path,
    run: Path,
    side: int,
    scratch: Path,
    keyed: Path | None = None,
    extra: list[str] = [],  # noqa: B006 - never written to
) -> Ran:
    train, record = job.train, scratch / "record.jsonl"
    arguments = [
        "--pretrained_model_name_or_path", base, "--instance_data_dir", run / "instance", "--instance_prompt", PROMPT,
        "--resolution", side, "--train_batch_size", train.batch_size, "--max_train_steps", train.steps,
        "--learning_rate", train.learning_rate, "--lr_scheduler", "constant", "--lr_warmup_steps", 0,
        "--seed", train.seed, "--output_dir", scratch / "theirs", "--checkpointing_steps", 10**9,
        *(["--rank", train.lora_rank] if train.method == "lora" else []), *extra,
    ]  # fmt: skip
    argv = [sys.executable, Path(__file__).with_name("reference_process.py"), scripts / SCRIPTS[train.method]]
    argv += [record, keyed or "-", "--", *arguments]
    started = time.monotonic()
    done = subprocess.run([str(each) for each in argv], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    return Ran(
        tuple(Step(n, row["loss"], row["wall_s"] - started, row["cpu_s"]) for n, row in enumerate(rows, start=1))
    )


ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1")


# ---- speed ---------------------------------------------------------------------------------------------------------

SIZES = {"tiny": TINY, "mid": MID, "mid-lean": MID_LEAN}
ROUNDS = int(os.environ.get("CLOUDBOOTH_BENCHMARK_ROUNDS", "5"))
STEPS = {"tiny": 20, "mid": 6, "mid-lean": 6}
LEAST_TIMES_AS_FAST = {"tiny": 1.1, "mid": 1.3, "mid-lean": 1.0}
"""Tripwires below what was measured. The goals, 2 and 1.5, and why the first is out of reach: docs/training.md."""
MOST_OF_ITS_START = 1.0
"""Likewise; the goal is 0.7."""


@pytest.mark.benchmark
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("name", SIZES)
def test_steps_and_start_beside_the_script(
    name: str, method: Any, scripts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interleaved, so that whatever else the machine does meets both alike; on one thread each. By processor seconds,
    which another process's work does not enter as it does the clock's; those of the clock stand in brackets. Under
    10 minutes on two idle cores."""
    size = SIZES[name]
    base = build(tmp_path / "base", size)
    run = tmp_path / "work/runs/r"
    job = tiny_job(
        _jpegs(run, size), method=method, steps=STEPS[name], learning_rate=5e-6, resolution=size.resolution,
        formats=("diffusers",) if method == "full" else ("lora",),
    )  # fmt: skip
    job = replace(job, base_path=str(base))
    theirs, ours = [], []
    for _ in range(ROUNDS):
        theirs.append(run_script(scripts, job, base, run, size.resolution, tmp_path))
        ours.append(_run_ours(job, run))
    with capsys.disabled():
        print(f"\n{name}, {method}: medians of {ROUNDS} rounds, load {os.getloadavg()[0]:.1f}")
        for label, of in (("scripts", theirs), ("ours", ours)):
            print(f"  {label:8} {_medians(of)}")
        their, our = _medians(theirs), _medians(ours)
        print(f"  times as fast: {their.step_cpu_s / our.step_cpu_s:.2f} ({their.step_wall_s / our.step_wall_s:.2f})")
        cpu, wall = our.start_cpu_s / their.start_cpu_s, our.start_wall_s / their.start_wall_s
        print(f"  until the first step: {cpu:.2f} ({wall:.2f}) of the script's")
    assert their.step_cpu_s / our.step_cpu_s >= LEAST_TIMES_AS_FAST[name]
    assert our.start_cpu_s / their.start_cpu_s <= MOST_OF_ITS_START


@dataclass(frozen=True)
class Medians:
    step_cpu_s: float
    step_wall_s: float
    start_cpu_s: float
    """Until the first step is done, without the evaluation of step 0."""
    start_wall_s: float
    evaluated_cpu_s: float

    def __str__(self) -> str:
        return (
            f"step {1e3 * self.step_cpu_s:7.1f} ms of processor ({1e3 * self.step_wall_s:.1f} of the clock); first step"
            f" after {self.start_cpu_s:5.2f} s ({self.start_wall_s:.2f}), and {self.evaluated_cpu_s:.2f} s to evaluate"
        )


def _medians(runs: list[Ran]) -> Medians:
    steps, median = [run.per_step() for run in runs], statistics.median
    return Medians(
        median(cpu for _, cpu in steps),
        median(wall for wall, _ in steps),
        median(run.first.cpu_s - run.evaluated_cpu_s for run in runs),
        median(run.first.wall_s - run.evaluated_wall_s for run in runs),
        median(run.evaluated_cpu_s for run in runs),
    )


def _jpegs(run: Path, size: Size) -> wire.DatasetSpec:
    """Four photographs of the training size, as the scripts and we both read them."""
    images = []
    for number in range(4):
        drawn, path = run / f"{number}.png", run / "instance" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_photo(drawn, number, size.resolution, size.resolution)
        Image.open(drawn).save(path, quality=95)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        images.append(wire.ImageSpec(path.name, digest, size.resolution, size.resolution))
    return wire.DatasetSpec("instance", "instance", "instance", PROMPT, tuple(images))


def _run_ours(job: wire.Job, run: Path) -> Ran:
    """The stage as the supervisor starts it, up to its last step."""
    for made in ("checkpoints", "output"):
        shutil.rmtree(run / made, ignore_errors=True)
    (run / wire.JOB_FILE).write_bytes(wire.dumps(job))
    read_end, write_end = os.pipe()
    lock = os.open(run / "lock", os.O_RDWR | os.O_CREAT)
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "remote_trainer", "train", "--run-folder", str(run), "--events-fd", str(write_end),
         "--lock-fd", str(lock)],
        stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=(write_end, lock), env=ENVIRONMENT,
        start_new_session=True,
    )  # fmt: skip
    os.close(write_end)
    os.close(lock)
    steps = []
    evaluated_wall_s = evaluated_cpu_s = 0.0
    with os.fdopen(read_end, "rb") as events:
        for line in events:
            event = wire.decode_event(line).event
            wall_s, cpu_s = time.monotonic() - started, _cpu_s(process.pid)
            if isinstance(event, wire.PhaseStarted) and event.name == "evaluate" and not steps:
                evaluated_wall_s, evaluated_cpu_s = -wall_s, -cpu_s
            if isinstance(event, wire.Evaluated) and not steps:
                evaluated_wall_s, evaluated_cpu_s = evaluated_wall_s + wall_s, evaluated_cpu_s + cpu_s
            if isinstance(event, wire.StepDone):
                steps.append(Step(event.step, event.loss or 0.0, wall_s, cpu_s))
                if event.step == job.train.steps:
                    break
    process.kill()
    process.communicate()
    return Ran(tuple(steps), evaluated_wall_s, evaluated_cpu_s)


def _cpu_s(pid: int) -> float:
    """Of the process so far, to a hundredth."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
