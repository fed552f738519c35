"""Two processes with a batch of two each train what one trains with a batch of four."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from remote_trainer import captions, wire
from remote_trainer.errors import TrainingFailed
from remote_trainer.ranks import free_port
from remote_trainer.world import World, join
from tests.trainer.tiny_runs import PROMPT, Watched, final_weights, photo_set, tiny_job

ROOT = Path(__file__).parents[2]


def run_together(job: wire.Job, run_folder: Path) -> list[Any]:
    """As the supervisor starts it, on the CPU; the events."""
    (run_folder / wire.JOB_FILE).write_bytes(wire.dumps(job))
    read_end, write_end = os.pipe()
    lock = os.open(run_folder / "lock", os.O_RDWR | os.O_CREAT)
    process = subprocess.Popen(
        [sys.executable, "-m", "remote_trainer", "train", "--run-folder", str(run_folder), "--events-fd",
         str(write_end), "--lock-fd", str(lock)],
        stdin=subprocess.PIPE, pass_fds=(write_end, lock), start_new_session=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"),
    )  # fmt: skip
    os.close(write_end)
    with os.fdopen(read_end, "rb") as events:
        seen = [wire.decode_event(line).event for line in events]
    process.communicate(timeout=120)
    os.close(lock)
    return seen


def test_two_processes_equal_one_with_twice_the_batch(epsilon_base, tmp_path):
    """Also where the gradient of a step is a sum over several batches, with class images, and with captions that were
    written on the host and are dropped now and then."""
    alone, together = tmp_path / "alone/runs/r", tmp_path / "together/runs/r"
    settings: dict[str, Any] = {
        "steps": 4, "gradient_accumulation": 2, "caption_dropout": 0.3, "validation_prompts": (PROMPT,),
        "checkpoint_every": 2,
    }  # fmt: skip
    jobs = {}
    for folder, batch_size in ((alone, 4), (together, 2)):
        folder.mkdir(parents=True)
        shown = dataclasses.replace(photo_set(folder, "instance", 4), captioned=True)
        sets = shown, photo_set(folder, "class", 4)
        (folder / captions.FOLDER).mkdir()
        for number, image in enumerate(shown.images):  # only the first process reads them
            (folder / captions.FOLDER / f"{image.sha256}.txt").write_text(f"photo {number} of many")
        jobs[folder] = tiny_job(*sets, batch_size=batch_size, **settings)
    Watched().train(jobs[alone], alone, epsilon_base)
    events = run_together(dataclasses.replace(jobs[together], processes=2, base_path=str(epsilon_base)), together)
    assert isinstance(events[-1], wire.Done)
    # Three in all: the second process says nothing.
    evaluations = [event.mean_loss for event in events if isinstance(event, wire.Evaluated)]
    recorded = json.loads((alone / "output/training.json").read_text())["evaluations"]
    assert evaluations == pytest.approx([each["mean_loss"] for each in recorded], abs=1e-5)
    one, two = final_weights(alone), final_weights(together)
    assert one.keys() == two.keys()
    # Sums in another order differ in the last bit, and Adam makes up to a tenth of a step (1e-3) of that.
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-4)
    base = epsilon_base / "unet/diffusion_pytorch_model.safetensors"
    assert base.read_bytes() != (together / "output/diffusers/unet" / base.name).read_bytes()


def begun(argv: list[str], variables: Mapping[str, str] | None = None, **pipes: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(variables or {})}
    return subprocess.Popen([sys.executable, *argv], text=True, start_new_session=True, env=environment, **pipes)


_STOPPED_AT_ONCE = """
import os, pathlib, signal, sys
from remote_trainer import ranks
signal.signal(signal.SIGTERM, lambda *_: None)
with ranks.others(2, pathlib.Path(sys.argv[1]), lambda failure: print(failure, flush=True)):
    os.killpg(0, signal.SIGTERM)
    while True:
        signal.pause()
"""
_BROKEN_EXCHANGE = """
import pathlib, sys
from remote_trainer import errors, ranks
try:
    with ranks.others(2, pathlib.Path(sys.argv[1]), print):
        raise RuntimeError("Connection closed by peer")
except errors.TrainingFailed as failure:
    print(failure.code, failure.message)
"""


_SHORT_OF_MEMORY = """
import os
import torch
from torch import nn
from remote_trainer import descent, wire
from remote_trainer.denoising import Denoising
from remote_trainer.errors import TrainingFailed
from remote_trainer.ranks import free_port
from remote_trainer.world import join

class Layer(nn.Linear):
    thrifty = False
    def enable_gradient_checkpointing(self):
        self.thrifty = True

class Batches:
    def loss(self, step, micro_step, part, parts):
        short = world.rank == 1 and micro_step == 1
        if short and (step == 3 or (step == 2 and not layer.thrifty)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sum_of(layer, step, micro_step, [world.rank])

def sum_of(layer, step, micro_step, rows):
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(10 * step + micro_step))[rows]
    return layer(x).square().mean()

def made():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = Layer(4, 4)
    return layer, torch.optim.SGD(layer.parameters(), lr=0.1)

world = join(2, gpus=0)
layer, optimizer = made()
spec = wire.TrainSpec(gradient_accumulation=2, max_grad_norm=1e9)
denoising = Denoising(None, layer, torch.device("cpu"), "fp32")
steps = descent.Descent(spec, denoising, Batches(), dict(layer.named_parameters()), optimizer, world=world)
alone, descending = made()
for step in (1, 2):
    steps.step(step, 0.1, lambda decision: print(decision.what, "|", decision.why))
    descending.zero_grad()
    (sum(sum_of(alone, step, k, [0, 1]) for k in range(2)) / 2).backward()
    descending.step()
torch.testing.assert_close(layer.weight, alone.weight)
try:
    steps.step(3, 0.1)
except (TrainingFailed, torch.OutOfMemoryError) as error:
    print(error)
"""


def test_a_step_that_runs_out_of_memory_in_one_process_is_done_again_by_all_and_once_only():
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    both = {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", **meeting}
    with ExitStack() as running:
        processes = [
            running.enter_context(
                begun(["-c", _SHORT_OF_MEMORY], variables={**both, "RANK": rank}, stdout=subprocess.PIPE)
            )
            for rank in "01"
        ]
        told = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    adapted = "gradient checkpointing on | memory ran out at step 2, which is done again this way"
    assert told[0] == [adapted, "memory ran out at step 3 in another process of the run"]
    assert told[1] == [adapted, "CUDA out of memory"]


def test_a_stop_ends_no_other_process_however_young(tmp_path):
    """It ends for want of a job instead."""
    with begun(["-c", _STOPPED_AT_ONCE, str(tmp_path)], stdout=subprocess.PIPE) as process:
        told, _ = process.communicate(timeout=60)
    assert told == "training process 1 of 2 ended with exit code 1\n"


def test_what_another_process_failed_of_is_said_and_not_that_the_exchange_broke(tmp_path):
    job = dataclasses.replace(tiny_job(photo_set(tmp_path, "instance", 1)), base="/nowhere")
    (tmp_path / wire.JOB_FILE).write_bytes(wire.dumps(job))
    (tmp_path / "rank-1.json").write_bytes(wire.dumps(wire.Failed("internal", "of an earlier start")))
    with begun(["-c", _BROKEN_EXCHANGE, str(tmp_path)], stdout=subprocess.PIPE) as process:
        told, _ = process.communicate(timeout=60)
    assert told.startswith("base-not-found /nowhere is no diffusers folder")


def test_the_other_processes_show_their_stacks_when_asked(tmp_path):
    os.mkfifo(tmp_path / wire.JOB_FILE)
    with (
        begun(
            ["-m", "remote_trainer", "rank", "--run-folder", str(tmp_path)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
        (tmp_path / wire.JOB_FILE).open("w"),
    ):  # it reads now, and waits
        process.send_signal(signal.SIGUSR1)
        assert process.stderr
        assert process.stdin
        shown = next(line for line in process.stderr if "_rank" in line)
        process.stdin.close()
        assert process.wait(30) == -signal.SIGKILL, "before what it reads comes to its end"
    assert "remote_trainer/__main__.py" in shown


def test_a_world_of_another_size_than_the_job_s_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(TrainingFailed, match="wants 2 training processes, and 1 were started") as failure:
        join(2, gpus=0)
    assert "compute.gpu_count" in failure.value.hint


def test_a_machine_with_fewer_gpus_than_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingFailed, match="shows 1 of the 2 GPUs") as failure:
        join(2, gpus=1)
    assert failure.value.code == "no-gpu"


def test_one_process_is_a_world_of_its_own(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join(1, gpus=1) == World(0, 1)
    assert World().any(True)
    assert World().leads
