"""Our losses and our speed beside diffusers' own DreamBooth scripts.

pytest -m benchmark -s tests/benchmarks/test_reference.py --reference-scripts FOLDER
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from remote_trainer import wire
from tests.benchmarks.sized_bases import MID, TINY, build
from tests.trainer.tiny_runs import CLASS_PROMPT, PROMPT, SIDE, build_base, our_losses, photo_set, tiny_job

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


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {name: build(root / name, size) for name, size in SIZES.items()}


SIZES = {"tiny": TINY, "mid": MID}


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
