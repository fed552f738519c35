"""How much of the host's memory encoding 2,000 pictures takes, beyond the model's own.

pytest -m benchmark -s tests/benchmarks/test_encoding_memory.py

The pictures have 256 pixels and an autoencoder that divides by 4: latents of 3×64×64, three quarters of what Stable
Diffusion makes of 512 pixels.
"""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from remote_trainer import wire
from remote_trainer.bases import tiny
from remote_trainer.dataset.pictures import training_set
from remote_trainer.encoded import encode_sets
from remote_trainer.families.detect import open_base
from tests.trainer.tiny_runs import photo_set, tiny_job

PICTURES, SIDE = 2000, 256
MOST_GB = 1.5


@pytest.mark.benchmark
def test_two_thousand_pictures_fit_beside_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.build(tmp_path / "base")
    family = open_base(str(tmp_path / "base"))
    one = photo_set(tmp_path, "instance", 1, sizes=((SIDE, SIDE),))
    many = wire.DatasetSpec("instance", "instance", "instance", one.prompt, one.images * PICTURES)
    warm = training_set(tiny_job(one), tmp_path).sets
    encode_sets(family, warm, 42, torch.device("cpu"), lambda: False)
    before_gb = _peak_gb()
    encoded = encode_sets(family, training_set(tiny_job(many), tmp_path).sets, 42, torch.device("cpu"), lambda: False)
    taken_gb = _peak_gb() - before_gb
    latents_gb = sum(v.mean.nbytes + v.std.nbytes for each in encoded for views in each.pictures for v in views) / 1e9
    with capsys.disabled():
        print(f"\n{PICTURES} pictures: {taken_gb:.2f} GB beyond the model, of which latents {latents_gb:.2f} GB")
    assert taken_gb < MOST_GB


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
