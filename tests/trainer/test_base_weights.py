"""Fewer bits for a large base where nothing else makes a step fit: which, when, and that a resumed run keeps them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from remote_trainer import wire
from remote_trainer.base_weights import choices, first_that_loads, fitted, next_that_may_fit, that_load
from remote_trainer.errors import TrainingFailed
from remote_trainer.families.detect import open_base
from remote_trainer.train import train
from remote_trainer.wire import TrainSpec, Weights
from tests.trainer.tiny_flux import build_flux_base
from tests.trainer.tiny_runs import Watched, photo_set, tiny_job

GB = 10**9
FLUX = 11_901_408_320
ORDER: tuple[Weights, ...] = ("bf16", "int8", "nf4")


class Memory:
    """Of so many bytes, of which so many were taken at the most; None: without a bound."""

    def __init__(self, free: int | None, peak: int = 0) -> None:
        self._free, self._peak = free, peak

    def free_bytes(self) -> int | None:
        return self._free

    def peak_bytes(self) -> int:
        return self._peak

    def forget_peak(self) -> None: ...


# ---- decisions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free_gb", "weights"), [(80, "bf16"), (24, "bf16"), (23, "int8"), (16, "int8"), (12, "nf4"), (4, "nf4")]
)
def test_flux_begins_with_the_most_precise_weights_that_fit_by_themselves(free_gb: int, weights: str) -> None:
    assert ORDER[first_that_loads(ORDER, FLUX, free_gb * GB)] == weights


def test_weights_are_tried_next_that_save_what_was_lacking() -> None:
    """int8 saves 11.3 GB of Flux, nf4 16.4."""
    assert next_that_may_fit(ORDER, 0, FLUX, peak_bytes=26 * GB, free_bytes=24 * GB) == 1
    assert next_that_may_fit(ORDER, 0, FLUX, peak_bytes=26 * GB, free_bytes=12 * GB) == 2
    assert next_that_may_fit(ORDER, 0, FLUX, peak_bytes=26 * GB, free_bytes=8 * GB) is None
    assert next_that_may_fit(ORDER, 1, FLUX, peak_bytes=16 * GB, free_bytes=15 * GB) == 2
    assert next_that_may_fit(ORDER, 2, FLUX, peak_bytes=9 * GB, free_bytes=8 * GB) is None


@pytest.mark.parametrize(
    ("settings", "adapters_alone"),
    [({"method": "full"}, True), ({"base_precision": "bf16"}, True), ({}, False)],
    ids=["a full training", "a precision that was asked for", "a small base"],
)
def test_nothing_else_is_tried_for(settings: dict[str, Any], adapters_alone: bool) -> None:
    assert choices(TrainSpec(**settings), "bf16", adapters_alone) == ("bf16",)


def test_an_adapter_of_a_large_base_leaves_the_choice_open() -> None:
    assert choices(TrainSpec(), "bf16", True) == ORDER
    assert choices(TrainSpec(method="dora"), "int8", True) == ("int8", "nf4")


def test_where_no_bound_is_known_nothing_is_given_up() -> None:
    said: list[wire.Decision] = []
    assert that_load(ORDER, FLUX, Memory(None), said.append) == "bf16"
    assert not said


def test_what_is_too_large_to_be_loaded_is_said_in_numbers() -> None:
    said: list[wire.Decision] = []
    assert that_load(ORDER, FLUX, Memory(16 * GB), said.append) == "int8"
    assert said == [
        wire.Decision("frozen weights in int8", "11.9 billion parameters take 23.8 GB in bf16, and 16.0 are free")
    ]


# ---- trying ----------------------------------------------------------------------------------------------------------


def needing(least: Weights) -> Callable[[Weights], str]:
    """A step for which memory suffices from those weights on."""

    def settle(made: Weights) -> str:
        if ORDER.index(made) < ORDER.index(least):
            raise TrainingFailed("out-of-memory", "not even the thriftiest step fits")
        return f"a way with {made}"

    return settle


def test_a_step_that_does_not_fit_is_tried_with_lighter_weights_and_said_so() -> None:
    said: list[wire.Decision] = []
    memory = Memory(24 * GB, peak=26 * GB)
    outcome = fitted(TrainSpec(), ORDER, FLUX, memory, lambda weights: weights, needing("nf4"), said.append)
    assert outcome == ("nf4", "nf4", "a way with nf4")
    assert [decision.what for decision in said] == ["frozen weights in int8", "frozen weights in nf4"]
    assert said[0].why == "with bf16 memory ran out: 26.0 GB and more are needed, 24.0 were free"


def test_loading_may_run_out_of_memory_too() -> None:
    def assemble(weights: Weights) -> Weights:
        if weights == "bf16":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return weights

    memory = Memory(24 * GB, peak=24 * GB)
    made, weights, _ = fitted(TrainSpec(), ORDER, FLUX, memory, assemble, needing("bf16"), lambda _: None)
    assert (made, weights) == ("int8", "int8")


def test_when_nothing_fits_the_last_failure_is_what_is_raised() -> None:
    memory = Memory(8 * GB, peak=26 * GB)
    with pytest.raises(TrainingFailed, match="not even the thriftiest"):
        fitted(TrainSpec(), ORDER, FLUX, memory, lambda weights: weights, needing("nf4"), lambda _: None)


def test_what_one_process_lacks_all_give_up() -> None:
    """Another process, whose word is the larger one, failed to load at first, and asks for the second in the order."""
    words = iter([1, 1, 0])
    outcome = fitted(
        TrainSpec(), ORDER, FLUX, Memory(80 * GB), lambda weights: weights, needing("bf16"), lambda _: None,
        agreed=lambda mine: max(next(words), mine if mine < len(ORDER) else 0),
    )  # fmt: skip
    assert outcome[1] == "int8"


def test_an_error_that_is_not_about_memory_passes() -> None:
    def assemble(_: Weights) -> Weights:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fitted(TrainSpec(), ORDER, FLUX, Memory(GB), assemble, needing("bf16"), lambda _: None)


# ---- a whole run -----------------------------------------------------------------------------------------------------


class FitsQuantizedAlone:
    """A family whose steps run out of memory beside weights that are not in few bits."""

    def __init__(self, base: Path) -> None:
        self._family: Any = open_base(str(base))
        self.loaded: list[Weights] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def load_denoiser(self, device: torch.device, weights: Weights = "fp32") -> Any:
        self.loaded.append(weights)
        return self._family.load_denoiser(device, weights)

    def predict(self, *arguments: Any) -> Any:
        if torch.is_grad_enabled() and self.loaded[-1] in ("fp32", "bf16"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self._family.predict(*arguments)


def test_a_lora_that_fits_beside_few_bits_alone_is_trained_so_and_resumed_so_where_there_is_room(
    tmp_path: Path,
) -> None:
    base = build_flux_base(tmp_path / "base")

    def run(folder: Path, memory: Memory, family: Any, stop_after: int | None = None) -> tuple[Watched, Any]:
        job = tiny_job(photo_set(folder, "instance", 2), method="lora", steps=3, formats=("lora",), precision="bf16")
        watched = Watched(stop_after=stop_after)
        outcome = train(
            job, folder, "unused", watched.emit, watched.should_stop, open_family=lambda _: family,
            memory_of=lambda _: memory,
        )  # fmt: skip
        return watched, outcome

    tight, roomy = Memory(10**6, peak=10**6), Memory(80 * GB)
    first, straight = run(tmp_path / "straight", tight, FitsQuantizedAlone(base))
    said = [decision.what for decision in first.of(wire.Decision) if "frozen weights" in decision.what]
    assert said == ["frozen weights in bf16", "frozen weights in int8"]

    run(tmp_path / "broken", tight, FitsQuantizedAlone(base), stop_after=1)
    larger = FitsQuantizedAlone(base)
    second, resumed = run(tmp_path / "broken", roomy, larger)
    assert resumed == straight, "the same bits"
    assert larger.loaded == ["int8"], "though there would be room for more"
    why = {decision.what: decision.why for decision in second.of(wire.Decision)}
    assert why["frozen weights in int8"].startswith("as the run began")
