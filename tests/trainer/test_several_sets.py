"""Several sets of pictures in one run: whose prompt, whose weight, and the same bits after a resume."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from remote_trainer.dataset.pictures import training_set
from remote_trainer.denoising import Denoising
from remote_trainer.encoded import encode_prompts, encode_sets
from remote_trainer.families.detect import open_base
from remote_trainer.micro_batch import MicroBatches
from tests.trainer.tiny_runs import CLASS_PROMPT, PROMPT, Watched, final_weights, photo_set, tiny_job

CPU = torch.device("cpu")


def sets_of(run_folder, **class_settings):
    subject = dataclasses.replace(photo_set(run_folder, "instance", 2), mirror=True, crop="random")
    other = dataclasses.replace(photo_set(run_folder, "class", 3), repeats=None, ignore_epochs=True, **class_settings)
    return subject, other


@pytest.fixture
def losses(epsilon_base, tmp_path):
    """The losses of twelve micro-batches, by the weight of the class images."""
    family = open_base(str(epsilon_base))
    denoising = Denoising(family, family.load_denoiser(CPU), CPU, "fp32")
    prompts = encode_prompts(family, [PROMPT, CLASS_PROMPT], CPU, lambda _: None)

    def of(weight: float, sampling: str) -> list[float]:
        job = tiny_job(*sets_of(tmp_path), prior_loss_weight=weight, prior_sampling=sampling)
        sets = encode_sets(family, training_set(job, tmp_path).sets, job.train.seed, CPU, lambda: False)
        batches = MicroBatches(job.train, denoising, sets, prompts)
        assert batches.pictures_each == (1 if sampling == "mixed" else 2)
        with torch.no_grad():
            return [batches.loss(step, 0).item() for step in range(1, 13)]

    return of


def test_mixed_gives_each_batch_to_one_set_and_weighs_the_class_s(losses):
    whole, half = losses(1.0, "mixed"), losses(0.5, "mixed")
    ratios = [round(small / large, 4) for small, large in zip(half, whole, strict=True)]
    assert set(ratios) == {1.0, 0.5}


def test_paired_has_both_in_every_batch(losses):
    alone, both = losses(0.0, "paired"), losses(1.0, "paired")
    assert all(more > less for more, less in zip(both, alone, strict=True))


def test_a_mixed_run_resumes_bit_for_bit(epsilon_base, tmp_path):
    settings = {"steps": 6, "batch_size": 2, "prior_sampling": "mixed", "prior_loss_weight": 0.5}
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    Watched().train(tiny_job(*sets_of(straight), **settings), straight, epsilon_base)
    job = tiny_job(*sets_of(broken), **settings)
    assert Watched(stop_after=3).train(job, broken, epsilon_base).step == 3
    Watched().train(job, broken, epsilon_base)
    one, other = final_weights(straight), final_weights(broken)
    assert all(torch.equal(one[name], other[name]) for name in one)
