"""Checkpoints: what trains, its optimizer state, and the decisions that a resumed run must not take again.

`checkpoints/checkpoint-000100/` holds `weights.safetensors` (by parameter name), `optimizer.safetensors`
(`<parameter>/<state>`), `ema.safetensors` where a run keeps an average, `state.json` and `manifest.json`. No pickles: a
checkpoint may have lain on a stranger's disk.
Random numbers and the order of pictures are functions of (seed, step), so the step is all there is to store of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from . import wire
from .commit import commit_folder, preparing, read_committed, remove_committed
from .ema import Ema

_WEIGHTS, _OPTIMIZER, _EMA, _STATE = "weights.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json"
_INTEGER = "#integer"
"""Ends the name of a state that the optimizer keeps as a Python number."""
_UNFINISHED = ".checkpoint-*"


@dataclass(frozen=True)
class Frozen:
    """Decisions that change bits: taken once, by the first machine, and kept by every later one."""

    precision: str
    cpu_threads: int
    """0 on a GPU."""
    gradient_checkpointing: bool
    learning_rate: float
    weights: wire.Weights = "fp32"
    """How weights that do not train are kept in memory."""
    parts: int = 1
    offload: bool = False
    """These two and `gradient_checkpointing` are a `Thrift`."""


@dataclass(frozen=True)
class Pin:
    """The commit of a git repository that a set's pictures were taken from."""

    set: str
    """Its id."""
    commit: str


@dataclass(frozen=True)
class RunState:
    step: int
    """Also the position in the order of pictures and the key of every random draw."""
    identity: str
    """What the weights belong to, see `identity_of`; a checkpoint of another identity is refused."""
    frozen: Frozen
    evaluations: tuple[wire.Evaluated, ...]
    """So that the record beside the model is the same whether or not the run was interrupted."""
    pins: tuple[Pin, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    state: RunState

    def restore(
        self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, ema: Ema | None = None
    ) -> None:
        """Copies weights, optimizer state and average into place. The names must be those that were saved."""
        # Tensor by tensor: a second copy of weights and moments need not fit into memory.
        from safetensors import safe_open

        with safe_open(self.folder / _WEIGHTS, "pt") as weights, torch.no_grad():
            if set(weights.keys()) != parameters.keys():
                raise ValueError(f"{self.folder.name} holds other parameters than this run trains")
            for name, parameter in parameters.items():
                parameter.copy_(weights.get_tensor(name))
        # Only a fused optimizer counts on the device; for any other, reading the count there would wait for the GPU.
        on_host, counts_on_device = torch.device("cpu"), bool(optimizer.defaults.get("fused"))
        with safe_open(self.folder / _OPTIMIZER, "pt") as moments:
            for key in moments.keys():  # noqa: SIM118 - not a dict
                name, _, entry = key.rpartition("/")
                parameter = parameters[name]
                value = moments.get_tensor(key)
                if entry.endswith(_INTEGER):
                    optimizer.state[parameter][entry.removesuffix(_INTEGER)] = int(value)
                else:
                    place = on_host if entry == "step" and not counts_on_device else parameter.device
                    optimizer.state[parameter][entry] = value.clone().to(place)  # a clone is aligned, a view may not be
        if ema is not None:
            with safe_open(self.folder / _EMA, "pt") as averages:
                for name, average in ema.averages.items():
                    average.copy_(averages.get_tensor(name))


def save(
    run_folder: Path,
    state: RunState,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    keep: int,
    ema: Ema | None = None,
) -> wire.CheckpointCommitted:
    """Commits a checkpoint, then removes all but the newest `keep`; the one just written always stays."""
    from safetensors.torch import save_file

    relative = wire.checkpoint_folder(state.step)
    folder = run_folder / relative
    with preparing(folder) as prepared:
        save_file({name: _plain(parameter) for name, parameter in parameters.items()}, prepared / _WEIGHTS)
        moments: dict[str, Tensor] = {}
        for name, parameter in parameters.items():
            for entry, value in sorted(optimizer.state.get(parameter, {}).items()):
                if isinstance(value, Tensor):
                    moments[f"{name}/{entry}"] = _plain(value)
                else:
                    moments[f"{name}/{entry}{_INTEGER}"] = torch.tensor(value)
        save_file(moments, prepared / _OPTIMIZER)
        if ema is not None:
            save_file({name: _plain(average) for name, average in ema.averages.items()}, prepared / _EMA)
        (prepared / _STATE).write_bytes(wire.dumps(state))
        manifest = commit_folder(prepared, folder, state.step)
    for old in _folders(run_folder)[:-keep]:
        if old != folder:
            remove_committed(old)
    return wire.CheckpointCommitted(state.step, relative, manifest.sha256, manifest.total_bytes)


def newest(run_folder: Path) -> Checkpoint | None:
    """The committed checkpoint with the highest step, every file of it checked by hash. Removes torn ones."""
    root = run_folder / wire.CHECKPOINTS_FOLDER
    for leftover in root.glob(_UNFINISHED):
        remove_committed(leftover)
    found: Checkpoint | None = None
    for folder in reversed(_folders(run_folder)):
        state = _read(folder)
        if state is None:
            remove_committed(folder)
        elif found is None:
            found = Checkpoint(folder, state)
            break
    return found


def _read(folder: Path) -> RunState | None:
    manifest = read_committed(folder)
    if manifest is None:
        return None
    try:
        return wire.loads(RunState, (folder / _STATE).read_bytes())
    except (OSError, wire.WireError):
        return None


def _folders(run_folder: Path) -> list[Path]:
    """By ascending step."""
    return sorted((run_folder / wire.CHECKPOINTS_FOLDER).glob("checkpoint-*"), key=lambda path: int(path.name[11:]))


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
