"""The real `torchrun` on two machines that share no disk, each with a shard of the denoiser, and a restart of ours."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops, ImageStat

from orchestrator.boot_plan import boot_plan
from orchestrator.ssh.machine_keys import make_machine_keys
from providers.api import BootPlan, Market, Offer, Rendezvous
from remote_trainer import rendezvous, wire
from remote_trainer.errors import TrainingFailed
from remote_trainer.ranks import free_port, others
from remote_trainer.supervisor import stage_environment
from tests.trainer.tiny_runs import PROMPT, Watched, final_weights, photo_set, tiny_job

ROOT = Path(__file__).parents[2]
OFFER = Offer("clusters", "1", "RTX 4090", 1, 24.0, Market.ON_DEMAND, 0.5)


def boot_plans(folder: Path, nodes: int = 2) -> list[BootPlan]:
    port = free_port()
    return [
        boot_plan(OFFER, make_machine_keys(folder, f"cb-{rank}"), None, None, 1500.0,
                  rendezvous=Rendezvous(nodes, rank, "127.0.0.1", port))
        for rank in range(nodes)
    ]  # fmt: skip


def ready(machine: Path, base: Path, batch_size: int, fsdp: bool = False, **fields: Any) -> Path:
    """A run's folder on a machine, with its photos and the job."""
    folder = machine / "runs/r"
    folder.mkdir(parents=True)
    sets = photo_set(folder, "instance", 4), photo_set(folder, "class", 0, generate=1)
    job = tiny_job(
        *sets, batch_size=batch_size, steps=3, checkpoint_every=2, prior_sampling="mixed", fsdp=fsdp,
        validation_prompts=(PROMPT,),
    )  # fmt: skip
    (folder / wire.JOB_FILE).write_bytes(wire.dumps(dataclasses.replace(job, base_path=str(base), **fields)))
    return folder


@pytest.fixture(scope="module")
def alone(epsilon_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process with a batch of four."""
    folder = ready(tmp_path_factory.mktemp("alone"), epsilon_base, 4)
    Watched().train(wire.loads(wire.Job, (folder / wire.JOB_FILE).read_bytes()), folder, epsilon_base)
    return folder


def started(argv: list[str], environment: Any, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", *argv], start_new_session=True, stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}, **streams,
    )  # fmt: skip


def last_events(processes: list[subprocess.Popen[bytes]]) -> list[list[wire.Event]]:
    told = [process.stdout.read() for process in processes if process.stdout]  # their stdin is a leash: it stays open
    return [[wire.decode_event(line).event for line in lines.splitlines() if line[:1] == b"{"] for lines in told]


def test_two_machines_with_a_shard_each_train_what_one_process_does_and_a_restart_ends_in_the_same_bits(
    alone: Path, epsilon_base: Path, tmp_path: Path
) -> None:
    """The restart has a checkpoint on the first machine only, and the environment from what the boot has noted."""
    plans = boot_plans(tmp_path)
    folders = [
        ready(tmp_path / f"machine-{rank}", epsilon_base, 2, fsdp=True, processes=2, nodes=2) for rank in range(2)
    ]
    with ExitStack() as running:
        agents = [
            running.enter_context(started(
                ["torch.distributed.run", "-m", "remote_trainer", "rank", "--run-folder", str(folder)], plan.env,
                stdout=subprocess.PIPE,
            ))
            for plan, folder in zip(plans, folders, strict=True)
        ]  # fmt: skip
        first, second = last_events(agents)
    assert isinstance(first[-1], wire.Done), first[-3:]
    assert any(isinstance(event, wire.Decision) and "keeps its part" in event.what for event in first)
    assert not second, "the first process alone says what happens"
    one, two = final_weights(alone), final_weights(folders[0])
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-4)
    assert not (folders[1] / "checkpoints").exists()
    shown = (folder / "validation/step-000003/00.png" for folder in (alone, folders[0]))
    assert mean_difference(*shown) < 1.0, "drawn by the gathered weights"

    shutil.rmtree(folders[0] / "output")
    shutil.rmtree(folders[0] / wire.checkpoint_folder(3))
    with ExitStack() as running:
        stages = [running.enter_context(stage) for stage in stages_of(boot_plans(tmp_path), folders)]
        again, silent = last_events(stages)
    assert again[-1] == first[-1], "the same manifest, to the bit"
    assert isinstance(silent[-1], wire.Stopped), "nothing there is to be fetched"


def mean_difference(one: Path, two: Path) -> float:
    """Of the pictures' pixels, 0 … 255."""
    pictures = [Image.open(path).convert("RGB") for path in (one, two)]
    return sum(ImageStat.Stat(ImageChops.difference(*pictures)).mean) / 3


def stages_of(plans: list[BootPlan], folders: list[Path]) -> Iterator[subprocess.Popen[bytes]]:
    """As the supervisor of each machine starts its `train`, which says on stdout what happens."""
    for plan, folder in zip(plans, folders, strict=True):
        note = folder.parents[1] / "rendezvous"
        home = {"PATH": os.environ["PATH"], "HOME": str(folder), rendezvous.NOTE_VARIABLE: str(note)}
        subprocess.run(["sh", "-c", plan.start_command], env={**home, **plan.env}, check=True, timeout=30)
        with pytest.MonkeyPatch.context() as here:
            here.setenv(rendezvous.NOTE_VARIABLE, str(note))
            environment = stage_environment(wire.loads(wire.Job, (folder / wire.JOB_FILE).read_bytes()), folder)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
        call = ["remote_trainer", "train", "--run-folder", str(folder), "--events-fd", "1", "--lock-fd", str(lock)]
        yield started(call, environment, stdout=subprocess.PIPE, pass_fds=(lock,))
        os.close(lock)


def test_a_machine_that_was_told_of_another_number_of_machines_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in Rendezvous(3, 1, "10.0.0.1").environment.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(TrainingFailed, match="4 processes on 2 machines, and this is one of 3") as failure,
        others(4, tmp_path, print, nodes=2),
    ):
        pass
    assert "compute.nodes" in failure.value.hint


# ---- what a machine is told ------------------------------------------------------------------------------------------


def test_the_boot_plan_s_words_are_the_trainer_s() -> None:
    told = Rendezvous(2, 1, "10.0.0.1", 1234)
    found = rendezvous.rendezvous_of(told.environment)
    assert (found.nodes, found.node_rank, found.address, found.port) == (2, 1, "10.0.0.1", 1234)


def test_a_cluster_that_states_it_by_names_of_its_own_is_understood() -> None:
    runpod = {
        "NUM_NODES": "4",
        "NODE_RANK": "3",
        "MASTER_ADDR": "10.65.0.2",
        "MASTER_PORT": "29400",
        "WORLD_SIZE": "32",
    }
    assert rendezvous.rendezvous_of(runpod) == rendezvous.Rendezvous(4, 3, "10.65.0.2", 29400)


def test_a_machine_that_was_told_nothing_is_alone() -> None:
    assert rendezvous.rendezvous_of({"PATH": "/bin"}) == rendezvous.ALONE
    assert rendezvous.rendezvous_of({"PET_NNODES": "1"}) == rendezvous.ALONE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"PET_NODE_RANK": "2"}, "PET_NODE_RANK is 2, and there are 2 machines"),
        ({"PET_NNODES": "1:4"}, "must be whole numbers"),
        ({"PET_MASTER_ADDR": ""}, "does not say where they meet"),
    ],
)
def test_what_cannot_be_is_named(change: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rendezvous.rendezvous_of({**Rendezvous(2, 1, "10.0.0.1").environment, **change})


def test_a_note_brings_where_machines_meet_and_no_other_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "rendezvous"
    note.write_text("LD_PRELOAD=/tmp/theirs.so\nPET_NNODES=2\nPYTHONPATH=/tmp\nMASTER_ADDR=10.0.0.1\nodd\n")
    monkeypatch.setenv(rendezvous.NOTE_VARIABLE, str(note))
    assert rendezvous.noted() == {"PET_NNODES": "2", "MASTER_ADDR": "10.0.0.1"}


@pytest.mark.skipif(os.getuid() != 0, reason="gives a file to somebody else")
def test_a_note_of_another_user_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "rendezvous"
    note.write_text("PET_NNODES=2\n")
    os.chown(note, 12345, -1)
    monkeypatch.setenv(rendezvous.NOTE_VARIABLE, str(note))
    assert rendezvous.noted() == {}
