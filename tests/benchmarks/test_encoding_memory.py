"""How much of the host's memory encoding 2,000 pictures takes, beyond the model's own.

pytest -m benchmark -s tests/benchmarks/test_encoding_memory.py

The latents have the size that SD 3 and Flux make of 1024 pixels, 16×128×128: 4.2 GB in all, with their spread. So that
this takes a minute and not an hour, the pictures have 128 pixels and the autoencoder, which is thin, divides by 1.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest
import torch

from remote_trainer import wire
from remote_trainer.dataset.pictures import training_set
from remote_trainer.encoded import encode_sets
from remote_trainer.families.detect import open_base
from remote_trainer.families.latent_diffusion import KlAutoencoder
from tests.trainer.tiny_runs import build_base, photo_set, tiny_job

PICTURES, SIDE, CHANNELS = 2000, 128, 16
MOST_GB = 1.5


@pytest.mark.benchmark
def test_two_thousand_pictures_fit_beside_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diffusers import AutoencoderKL

    torch.set_num_threads(1)
    thin = AutoencoderKL(
        block_out_channels=(4,), layers_per_block=1, latent_channels=CHANNELS, norm_num_groups=2, sample_size=SIDE,
        mid_block_add_attention=False,
    )  # fmt: skip
    family = open_base(str(build_base(tmp_path / "base", "epsilon")))
    family.load_autoencoder = lambda device: KlAutoencoder(thin, device)  # type: ignore[method-assign]
    one = photo_set(tmp_path, "instance", 1, sizes=((SIDE, SIDE),))
    many = wire.DatasetSpec("instance", "instance", "instance", one.prompt, one.images * PICTURES)
    cpu = torch.device("cpu")
    encode_sets(family, training_set(tiny_job(one), tmp_path).sets, 42, cpu, lambda: False, tmp_path)
    before_gb, started = _peak_gb(), time.process_time()
    encoded = encode_sets(family, training_set(tiny_job(many), tmp_path).sets, 42, cpu, lambda: False, tmp_path)
    taken_gb, spent_s = _peak_gb() - before_gb, time.process_time() - started
    posteriors = [view.posterior for each in encoded for views in each.pictures for view in views]
    assert all(posterior.shape == (CHANNELS, SIDE, SIDE) for posterior in posteriors)
    assert len(posteriors) == PICTURES
    assert torch.equal(posteriors[0].moments(), posteriors[-1].moments()), "the first is held, the last is filed"
    with capsys.disabled():
        latents_gb = PICTURES * posteriors[0].moments().nbytes / 1e9
        print(f"\n{PICTURES} pictures, {latents_gb:.2f} GB of latents: {taken_gb:.2f} GB of memory, {spent_s:.0f} s")
    assert taken_gb < MOST_GB


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
