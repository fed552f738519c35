"""How far the figures of one seed move on another machine: `python other_machine.py WORK_FOLDER`.

The same training and the same questions, in processes that compute as other CPUs would: with the vector instructions
that every x86-64 has, and with two threads. Both add up in another order, which is all that another CPU does. Each
process takes one to three minutes; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

import judge
from experiments import run
from remote_trainer.bases.resolve import resolve_base
from tables import read, written
from variants import Variant

_WEIGHTS = "output/diffusers/unet/diffusion_pytorch_model.safetensors"
_SHARES = ("subject", "place", "drift", "placed_drift", "color", "kinds")


@dataclass(frozen=True)
class Machine:
    """One that is imitated."""

    label: str
    environment: dict[str, str] = field(default_factory=dict)
    threads: int = 1


MACHINES = (
    Machine("this one"),
    Machine(
        "SSE alone",
        {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    ),
    Machine("two threads", {"OMP_WAIT_POLICY": "PASSIVE"}, threads=2),
)
"""ATen's own kernels, oneDNN's convolutions and MKL's matrix products each choose their instructions by themselves."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only is not None:
        _train(arguments.folder / str(arguments.only), MACHINES[arguments.only], arguments.steps)
        return
    for number, machine in enumerate(MACHINES):
        if not (arguments.folder / str(number) / "result.json").exists():
            again = [sys.executable, __file__, str(arguments.folder), f"--steps={arguments.steps}", f"--only={number}"]
            count = str(machine.threads)
            subprocess.run(again, env=os.environ | machine.environment | {"OMP_NUM_THREADS": count}, check=True)
    print("\n".join(table(arguments.folder)))


def _train(folder: Path, machine: Machine, steps: int) -> None:
    """In this process, which has the machine's environment."""
    torch.set_num_threads(machine.threads)
    folder.mkdir(parents=True, exist_ok=True)
    base = Path(resolve_base("builtin:toybox", folder))
    settings = {"steps": steps, "lr_schedule": "constant", "cpu_threads": machine.threads}
    variant = Variant(machine.label, settings, class_images=0)
    result = run(variant, 0, base, folder, rounds=1)
    assert result is not None
    (folder / "result.json").write_text(json.dumps(written(result)) + "\n")


def table(folder: Path) -> list[str]:
    """Lines of markdown: every machine beside the first."""
    lines = [
        "| | weights | loss on the photos | " + " | ".join(_SHARES) + " | diversity |",
        "|---" * (len(_SHARES) + 4) + "|",
    ]
    for number, machine in enumerate(MACHINES):
        result = read(json.loads((folder / str(number) / "result.json").read_text()))
        apart = _apart(folder / "0" / _WEIGHTS, folder / str(number) / _WEIGHTS)
        told = f"{apart:.1e}" if apart else "equal"
        shares = [_hits(getattr(result, each)) for each in _SHARES]
        cells = [machine.label, told, f"{result.photo_loss:.4f}", *shares, f"{result.diversity:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _hits(share: judge.Share) -> str:
    return f"{share.hits} of {share.n}"


def _apart(one: Path, other: Path) -> float:
    """Norm of the difference of two models' weights, against that of the first."""
    from safetensors.torch import load_file

    first, second = load_file(one), load_file(other)
    difference = sum(float((first[name] - second[name]).double().square().sum()) for name in first)
    return float((difference / sum(float(tensor.double().square().sum()) for tensor in first.values())) ** 0.5)


if __name__ == "__main__":
    main()
