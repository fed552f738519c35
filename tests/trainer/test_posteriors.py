"""Encoded pictures wait in memory or in a file, and nobody can tell from their numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.workload import GB, HELD_LATENTS_GB
from remote_trainer.posteriors import HELD_BYTES, Posteriors

CPU = torch.device("cpu")
SHAPES = ((4, 8, 8), (16, 4, 6), (4, 8, 8))


def _encoded() -> list[tuple[torch.Tensor, torch.Tensor]]:
    source = torch.Generator().manual_seed(0)
    return [(torch.randn(shape, generator=source), torch.rand(shape, generator=source)) for shape in SHAPES]


@pytest.mark.parametrize("held_bytes", [0, 4 * 2 * 4 * 8 * 8, 1 << 20])
def test_what_comes_back_is_what_was_kept_wherever_it_waited(held_bytes: int, tmp_path: Path) -> None:
    posteriors = Posteriors(CPU, tmp_path, held_bytes)
    kept = [posteriors.keep(mean, std) for mean, std in _encoded()]
    for posterior, (mean, std) in reversed(list(zip(kept, _encoded(), strict=True))):
        assert posterior.shape == tuple(mean.shape)
        assert torch.equal(posterior.moments(), torch.stack([mean, std]))


def test_memory_holds_no_more_than_it_may(tmp_path: Path) -> None:
    posteriors = Posteriors(CPU, tmp_path, held_bytes=4 * 2 * 4 * 8 * 8)
    first, *others = [posteriors.keep(mean, std) for mean, std in _encoded()]
    assert first.moments().data_ptr() == first.moments().data_ptr()
    assert all(each.moments() is not each.moments() for each in others)


def test_the_plan_counts_on_as_much_memory_as_there_is() -> None:
    assert HELD_LATENTS_GB * GB == HELD_BYTES


def test_the_file_has_no_name_that_could_outlive_the_run(tmp_path: Path) -> None:
    posteriors = Posteriors(CPU, tmp_path, held_bytes=0)
    kept = [posteriors.keep(mean, std) for mean, std in _encoded()]
    assert list(tmp_path.iterdir()) == []
    assert len(kept[0].moments()) == 2


def test_a_posterior_outlives_what_keeps_it(tmp_path: Path) -> None:
    (mean, std), *_ = _encoded()
    posterior = Posteriors(CPU, tmp_path, held_bytes=0).keep(mean, std)
    assert torch.equal(posterior.moments()[0], mean)
