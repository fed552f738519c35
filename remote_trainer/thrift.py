"""How a step is made to fit into memory: what to give up for it, cheapest first, and who finds out how much is needed.

Nothing here changes what is learned, but for rounding: activations are computed twice, a batch goes through in parts
whose gradients add up, and activations wait in the host's memory for the backward pass.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from .errors import TrainingFailed
from .failures import is_out_of_memory, memory_hint
from .wire import Decision, TrainSpec

T = TypeVar("T")
Say = Callable[[Decision], None]


@dataclass(frozen=True)
class Thrift:
    """One way to run a step."""

    gradient_checkpointing: bool = False
    parts: int = 1
    """A micro-batch goes through the denoiser in so many equal parts."""
    offload: bool = False
    """What the forward pass saves for the backward pass is kept in the host's memory."""

    def __str__(self) -> str:
        said = [f"gradient checkpointing {'on' if self.gradient_checkpointing else 'off'}"]
        said += [f"each batch in {self.parts} parts"] * (self.parts > 1)
        said += ["saved activations in the host's memory"] * self.offload
        return ", ".join(said)

    def saving(self, device: torch.device) -> AbstractContextManager[Any]:
        """To be entered around a forward pass."""
        if not self.offload:
            return nullcontext()
        return torch.autograd.graph.save_on_cpu(pin_memory=device.type == "cuda")


def ladder(batch_size: int) -> tuple[Thrift, ...]:
    """By ascending thrift and falling speed."""
    parts = [number for number in range(2, batch_size + 1) if batch_size % number == 0]
    return (
        Thrift(),
        Thrift(gradient_checkpointing=True),
        *(Thrift(gradient_checkpointing=True, parts=number) for number in parts),
        Thrift(gradient_checkpointing=True, parts=batch_size, offload=True),
    )


def next_rung(now: Thrift, batch_size: int) -> Thrift | None:
    """The next thriftier way; None when there is none."""
    rungs = ladder(batch_size)
    place = rungs.index(now) + 1 if now in rungs else len(rungs)
    return rungs[place] if place < len(rungs) else None


def choose_thrift(
    bounded: bool,
    spec: TrainSpec,
    probe: Callable[[Thrift], None],
    say: Say,
    agreed: Callable[[int], int] = lambda rung: rung,
) -> Thrift:
    """The least thrift under which `probe` does not run out of memory; none, without a probe, where no bound of memory
    is known, as on a CPU.

    probe: one pass at the largest bucket with everything in memory that a step holds. agreed: the highest rung that any
    process of the run needs. Raises TrainingFailed("out-of-memory") when nothing helps.
    """
    rungs = ladder(spec.batch_size)
    if not bounded:
        return rungs[0]
    needed = len(rungs)
    for number, thrift in enumerate(rungs):
        try:
            probe(thrift)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            free_memory()
        else:
            needed = number
            break
    needed = agreed(needed)
    if needed == len(rungs):
        message = "not even the thriftiest step at the largest bucket fits into the GPU's memory"
        raise TrainingFailed("out-of-memory", message, memory_hint(spec))
    why = "a step at the largest bucket fits into the GPU's memory" + (
        ", and with less thrift it did not" * (needed > 0)
    )
    say(Decision(str(rungs[needed]), why))
    return rungs[needed]


def thrift_of_shards(say: Say) -> Thrift:
    """Of a denoiser in shards, which no process can probe by itself."""
    chosen = Thrift(gradient_checkpointing=True)
    say(Decision(str(chosen), "a denoiser is sharded where memory is short, and shards cannot be tried one by one"))
    return chosen


def twice(work: Callable[[bool], T], what: str, hint: str, adapted: Callable[[str], None]) -> T:
    """`work(False)`, and if that runs out of memory `work(True)`, the thrifty way.

    adapted: told of it in between. Raises TrainingFailed("out-of-memory") naming `what`, with `hint`, if the memory
    runs out again.
    """
    try:
        return work(False)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        adapted(str(error).splitlines()[0] if str(error) else "memory ran out")
    free_memory()
    try:
        return work(True)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        message = f"memory ran out at {what}, the thrifty way too; the newest checkpoint is whole"
        raise TrainingFailed("out-of-memory", message, hint) from error


def free_memory() -> None:
    """Gives what nobody refers to any more back to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
