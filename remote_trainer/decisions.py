"""What the trainer decides by itself, each with the reason that the laptop prints."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from .errors import TrainingFailed
from .wire import BasePrecision, Decision, TrainSpec, Weights

Say = Callable[[Decision], None]

TINY_PARAMETERS = 20_000_000
"""Below this a second OpenMP thread costs more in synchronization than it computes (measured: 10-30 times slower)."""


def choose_device(allow_cpu: bool, say: Say) -> torch.device:
    """A GPU on which a matrix product succeeds, else the CPU when the job allows it.

    Raises TrainingFailed("no-gpu") otherwise: a rented GPU that cannot be used must not be paid for.
    """
    reason = "torch sees no CUDA device"
    if torch.cuda.is_available():
        try:
            torch.ones(64, 64, device="cuda").matmul(torch.ones(64, 64, device="cuda")).sum().item()
        except RuntimeError as error:
            reason = f"a matrix product on the GPU failed: {str(error).splitlines()[0]}"
        else:
            say(Decision(f"train on {torch.cuda.get_device_name()}", "a matrix product on it succeeded"))
            return torch.device("cuda")
    if not allow_cpu:
        raise TrainingFailed("no-gpu", reason, "set `compute.allow_cpu = true` to train on the CPU all the same")
    say(Decision("train on the CPU", reason))
    return torch.device("cpu")


def choose_precision(spec: TrainSpec, device: torch.device, say: Say) -> str:
    if spec.precision != "auto":
        return spec.precision
    if spec.optimizer == "adamw-bf16":
        say(Decision("precision bf16", "the optimizer keeps weights in bfloat16"))
        return "bf16"
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        say(Decision("precision bf16", "the GPU computes bfloat16; weights and optimizer stay in float32"))
        return "bf16"
    why = "a CPU gains nothing from bfloat16" if device.type == "cpu" else "the GPU has no bfloat16 units"
    say(Decision("precision fp32", why))
    return "fp32"


def choose_weights(wished: BasePrecision, precision: str, adapters_alone: bool, say: Say) -> Weights:
    """How the weights that do not train are kept. adapters_alone: of families too large for float32 on one GPU."""
    if wished == "bf16" and precision == "fp32":
        say(Decision("frozen weights in fp32", "they are computed with in float32"))
        return "fp32"
    if wished != "auto":
        return wished
    if precision != "bf16" or not adapters_alone:
        return "fp32"
    say(Decision("frozen weights in bf16", "half the memory, and they are computed with in bfloat16 anyway"))
    return "bf16"


def choose_cpu_threads(spec: TrainSpec, device: torch.device, parameters: int, say: Say) -> int:
    """0 on a GPU, where the count changes nothing."""
    if device.type != "cpu":
        return 0
    if spec.cpu_threads is not None:
        return spec.cpu_threads
    millions = f"{parameters / 1e6:.1f} million parameters"
    if parameters < TINY_PARAMETERS:
        say(Decision("1 CPU thread", f"{millions}: a second thread would cost more than it computes"))
        return 1
    cores = physical_cores()
    say(Decision(f"{cores} CPU threads", f"{millions}, and this machine lets us use {cores} physical cores"))
    return cores


def physical_cores() -> int:
    """Cores without their hyper-threads, at most as many as this process, or its container, may use."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    topology = Path("/sys/devices/system/cpu")
    siblings = set()
    for cpu in allowed:
        try:
            siblings.add((topology / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text())
        except OSError:
            siblings.add(str(cpu))
    return max(1, min(len(siblings), _container_quota()))


def _container_quota() -> int:
    """Whole CPUs that a container's time quota is worth; a container sees all cores of its host whatever it may use."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup v2, or `max`: no quota
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def planned_learning_rate(spec: TrainSpec) -> float:
    """The laptop decides it, so that the plan can show it. Raises TrainingFailed("bad-job") for a job without one."""
    if spec.learning_rate is None:
        raise TrainingFailed(
            "bad-job", "the job states no learning rate", "launch it with `--set train.learning_rate=1e-4`"
        )
    return spec.learning_rate


def planned_checkpoint_interval(spec: TrainSpec) -> int:
    """Steps. As `planned_learning_rate`: the laptop knows what interruptions are likely and what they cost."""
    if spec.checkpoint_every is None:
        raise TrainingFailed(
            "bad-job", "the job states no checkpoint interval", "launch it with `--set train.checkpoint_every=100`"
        )
    return spec.checkpoint_every
