"""How the frozen weights of a large base are kept beside its adapter where memory is short.

All that costs time alone (`thrift.ladder`) is given up before: fewer bits are another base to the adapter, and other
numbers. So they are the last resort, taken only where `train.base_precision` leaves it open, and kept by a resumed run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from .errors import TrainingFailed
from .failures import is_out_of_memory, memory_hint
from .gpu_memory import Memory
from .thrift import Say, free_memory
from .wire import Decision, TrainSpec, Weights

S = TypeVar("S")
R = TypeVar("R")
GB = 1e9
BYTES_EACH: Mapping[Weights, float] = {"fp32": 4.0, "bf16": 2.0, "int8": 1.05, "nf4": 0.62}
"""For each weight, the scales of quantized ones and the layers that stay in bfloat16 included."""
LIGHTER: Mapping[Weights, tuple[Weights, ...]] = {
    "fp32": ("int8", "nf4"), "bf16": ("int8", "nf4"), "int8": ("nf4",), "nf4": (),
}  # fmt: skip
"""From the most precise on."""


def choices(spec: TrainSpec, weights: Weights, adapters_alone: bool) -> tuple[Weights, ...]:
    """`weights` and what may take their place, lighter each. adapters_alone: of families too large to train whole."""
    open_ = spec.method != "full" and spec.base_precision == "auto" and adapters_alone
    return (weights, *LIGHTER[weights]) if open_ else (weights,)


def first_that_loads(order: Sequence[Weights], parameters: int, free_bytes: int) -> int:
    """Place in `order` of the first weights that fit by themselves; the last, which may not either, if none do."""
    fitting = (place for place, weights in enumerate(order) if parameters * BYTES_EACH[weights] <= free_bytes)
    return next(fitting, len(order) - 1)


def next_that_may_fit(
    order: Sequence[Weights], place: int, parameters: int, peak_bytes: int, free_bytes: int
) -> int | None:
    """The next place whose saving brings what a failed try has needed, at least, below what is free; None: none does.

    peak_bytes: what was allocated when memory ran out, so that what is ruled out by it would certainly not have fitted.
    """
    now = BYTES_EACH[order[place]]
    for later in range(place + 1, len(order)):
        if peak_bytes - parameters * (now - BYTES_EACH[order[later]]) <= free_bytes:
            return later
    return None


def that_load(
    order: Sequence[Weights],
    parameters: int,
    memory: Memory,
    say: Say,
    agreed: Callable[[int], int] = lambda place: place,
) -> Weights:
    """What to begin with: whether a step fits beside it, `fitted` finds out. parameters: of the denoiser."""
    free = memory.free_bytes()
    if free is None or len(order) == 1:
        return order[0]
    weights = order[agreed(first_that_loads(order, parameters, free))]
    if weights != order[0]:
        billions, needed = f"{parameters / 1e9:.3g} billion parameters", parameters * BYTES_EACH[order[0]] / GB
        why = f"{billions} take {needed:.1f} GB in {order[0]}, and {free / GB:.1f} are free"
        say(Decision(f"frozen weights in {weights}", why))
    return weights


def fitted(
    spec: TrainSpec,
    order: Sequence[Weights],
    parameters: int,
    memory: Memory,
    assemble: Callable[[Weights], S],
    settle: Callable[[S], R],
    say: Say,
    agreed: Callable[[int], int] = lambda place: place,
) -> tuple[S, Weights, R]:
    """What `assemble` makes with the most precise weights of `order` for which `settle` finds a way to do a step.

    parameters: of the denoiser. settle: raises TrainingFailed("out-of-memory"), in all processes alike, where there is
    no way. agreed: the largest of what any process of the run says. Raises what the last of them failed of.
    """
    place = 0
    while True:
        weights = order[place]
        memory.forget_peak()
        free = memory.free_bytes()
        made, failure = _tried(partial(assemble, weights))
        if not agreed(int(failure is not None)) and made is not None:
            way, failure = _tried(partial(settle, made))
            if way is not None:
                return made, weights, way
        made, peak = None, memory.peak_bytes()
        later = None if free is None else next_that_may_fit(order, place, parameters, peak, free)
        place = agreed(len(order) if later is None else later)
        if place == len(order):
            message = "memory ran out in another process of the run"
            raise failure or TrainingFailed("out-of-memory", message, memory_hint(spec))
        assert free is not None
        needed = f"with {weights} memory ran out: {peak / GB:.1f} GB and more are needed, {free / GB:.1f} were free"
        say(Decision(f"frozen weights in {order[place]}", needed))
        free_memory()


def _tried(work: Callable[[], S]) -> tuple[S, None] | tuple[None, Exception]:
    """What it returns, or the failure of memory that it ended in."""
    try:
        return work(), None
    except Exception as error:
        if not is_out_of_memory(error) and not (isinstance(error, TrainingFailed) and error.code == "out-of-memory"):
            raise
        return None, error.with_traceback(None)  # which would keep in memory what had been loaded
