"""What a machine's Python and graphics driver are, and whether the two compute together. Standard library only, 3.9."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from .errors import TrainingFailed

_PROBE = """
import json, sys
from importlib import metadata
found = {}
for each in metadata.distributions():
    name = each.metadata["Name"]
    if name:
        found.setdefault(name.lower().replace("_", "-").replace(".", "-"), each.version)
print(json.dumps({"python": sys.version_info[:2], "virtual": sys.prefix != sys.base_prefix, "installed": found}))
"""

_CUDA_PROBE = """
import torch
side = torch.ones(64, 64, device="cuda")
assert float((side @ side).sum()) == 64.0 ** 3
print(torch.cuda.get_device_name(0))
"""


@dataclass(frozen=True)
class Interpreter:
    path: str
    version: tuple[int, int]
    virtual: bool
    installed: Mapping[str, str]
    """Normalized distribution name → version."""


def probe_interpreter(python: str) -> Optional[Interpreter]:
    """What `python` is and has, without importing any of it; None when it cannot be run. Takes about 0.2 s."""
    answer = ask([python, "-c", _PROBE], timeout_s=60.0)
    if answer is None:
        return None
    try:
        said = json.loads(answer.splitlines()[-1])
        return Interpreter(python, tuple(said["python"]), said["virtual"], said["installed"])
    except (ValueError, KeyError, IndexError):
        return None


def driver_cuda() -> Optional[tuple[int, int]]:
    """The newest CUDA version that the NVIDIA driver runs; None without driver or GPU."""
    return parse_driver_cuda(ask(["nvidia-smi"], timeout_s=30.0) or "")


def parse_driver_cuda(nvidia_smi: str) -> Optional[tuple[int, int]]:
    match = re.search(r"CUDA (?:UMD )?Version:\s*(\d+)\.(\d+)", nvidia_smi)
    return (int(match.group(1)), int(match.group(2))) if match else None


def cuda_works(python: str) -> Optional[str]:
    """The GPU's name if a matrix product on it comes out right under `python`, else None. Takes 5–15 s."""
    answer = ask([python, "-c", _CUDA_PROBE], timeout_s=180.0)
    return answer.strip().splitlines()[-1] if answer and answer.strip() else None


def require_cuda(python: str) -> str:
    """The GPU's name. Raises TrainingFailed("no-gpu") when `python` cannot compute on one: nobody pays for a GPU in
    vain, and weights are downloaded only after this.
    """
    device = cuda_works(python)
    if device is None:
        raise TrainingFailed(
            "no-gpu",
            "this machine has no GPU that torch can compute on",
            "try another offer; to train on its CPU all the same: `--set compute.allow_cpu=true`",
        )
    return device


def ask(command: Sequence[str], timeout_s: float) -> Optional[str]:
    """What a command prints; None when it cannot be run, fails or takes longer."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=timeout_s
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
