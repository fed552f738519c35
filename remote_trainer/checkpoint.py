"""Checkpoints: what trains, its optimizer state, and the decisions that a resumed run must not take again.

`checkpoints/checkpoint-000100/` holds `weights.safetensors` (by parameter name), `optimizer.safetensors`
(`<parameter>/<state>`), `ema.safetensors` where a run keeps an average, `state.json` and `manifest.json`. No pickles: a
checkpoint may have lain on a stranger's disk.
Random numbers and the order of pictures are functions of (seed, step), so the step is all there is to store of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from . import wire
from .commit import commit_folder, preparing, read_committed, remove_committed
from .ema import Ema
from .sharding import sharded_as, whole
from .world import World

_WEIGHTS, _OPTIMIZER, _EMA = "weights.safetensors", "optimizer.safetensors", "ema.safetensors"
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
    captions: dict[str, str] = field(default_factory=dict)
    """What the captioner said of pictures, by their sha256: `captions.Texts`."""


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
    """Where the first process finds it."""
    state: RunState

    @torch.no_grad()
    def restore(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        ema: Ema | None = None,
        world: World = World(),  # noqa: B008 - frozen
    ) -> None:
        """Copies weights, optimizer state and average into place. The names must be those that were saved."""
        _copy_weights(self._tensors(_WEIGHTS, world), parameters, self.folder.name)
        for key, value in self._tensors(_OPTIMIZER, world):
            name, _, entry = key.rpartition("/")
            parameter = parameters[name]
            if entry.endswith(_INTEGER):
                optimizer.state[parameter][entry.removesuffix(_INTEGER)] = int(value)
            else:
                aligned = value.clone()  # which a view may not be
                optimizer.state[parameter][entry] = sharded_as(
                    aligned.to(_place(entry, parameter, optimizer)), parameter
                )
        if ema is not None:
            for name, value in self._tensors(_EMA, world):
                ema.averages[name].copy_(value)

    @torch.no_grad()
    def restore_result(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Copies into place what a run hands over: the average where it keeps one, else the weights."""
        file = _EMA if (self.folder / _EMA).exists() else _WEIGHTS
        _copy_weights(self._tensors(file, World()), parameters, self.folder.name)

    def _tensors(self, file: str, world: World) -> Iterator[tuple[str, Tensor]]:
        """Of the first process's file, in every process: on other machines there is none. Tensor by tensor: a second
        copy of weights and moments need not fit into memory.
        """
        from safetensors import safe_open

        if world.size == 1:
            with safe_open(self.folder / file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    yield name, tensors.get_tensor(name)
            return
        with safe_open(self.folder / file, "pt") if world.leads else nullcontext() as tensors:
            names = [] if tensors is None else list(tensors.keys())
            for name in json.loads(world.from_first(json.dumps(names).encode())):
                value = tensors.get_tensor(name) if tensors is not None else None
                yield name, world.tensor_from_first(value)


def _place(entry: str, parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> torch.device:
    """Where the optimizer keeps a state. Only a fused one counts on the device; for any other, reading the count there
    would wait for the GPU.
    """
    if entry == "step":
        return parameter.device if optimizer.defaults.get("fused") else torch.device("cpu")
    return getattr(optimizer, "moments_rest_on", parameter.device)


def _copy_weights(stored: Iterator[tuple[str, Tensor]], parameters: Mapping[str, nn.Parameter], label: str) -> None:
    missing = set(parameters)
    for name, value in stored:
        if name not in parameters:
            break
        parameters[name].copy_(sharded_as(value, parameters[name]))
        missing.remove(name)
    else:
        if not missing:
            return
    raise ValueError(f"{label} holds other parameters than this run trains")


def save(
    run_folder: Path,
    state: RunState,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    keep: int,
    ema: Ema | None = None,
) -> wire.CheckpointCommitted:
    """Commits a checkpoint, then removes all but the newest `keep` and the best; the one just written always stays.

    The run's other processes call `give` meanwhile.
    """
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
        (prepared / wire.STATE_FILE).write_bytes(wire.dumps(state))
        manifest = commit_folder(prepared, folder, state.step)
    best = run_folder / wire.checkpoint_folder(wire.best_checkpoint(state.evaluations))
    for old in _folders(run_folder)[:-keep]:
        if old not in (folder, best):
            remove_committed(old)
    return wire.CheckpointCommitted(state.step, relative, manifest.sha256, manifest.total_bytes)


def give(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """The other processes' part in `save`: where weights are sharded, they are gathered one after the other."""
    for parameter in parameters.values():
        whole(parameter)
    for parameter in parameters.values():
        for _, value in sorted(optimizer.state.get(parameter, {}).items()):
            if isinstance(value, Tensor):
                whole(value)


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


def of_step(run_folder: Path, step: int) -> Checkpoint | None:
    """That one, every file of it checked by hash; None when it is not here whole."""
    return read_checkpoint(run_folder / wire.checkpoint_folder(step))


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The one that stands in `folder`, every file of it checked by hash; None when it is not whole."""
    state = _read(folder)
    return None if state is None else Checkpoint(folder, state)


def _read(folder: Path) -> RunState | None:
    manifest = read_committed(folder)
    if manifest is None:
        return None
    try:
        return wire.loads(RunState, (folder / wire.STATE_FILE).read_bytes())
    except (OSError, wire.WireError):
        return None


def _folders(run_folder: Path) -> list[Path]:
    """By ascending step."""
    return sorted((run_folder / wire.CHECKPOINTS_FOLDER).glob("checkpoint-*"), key=lambda path: int(path.name[11:]))


def _plain(tensor: Tensor) -> Tensor:
    return whole(tensor.detach()).cpu().contiguous()
