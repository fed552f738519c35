"""A stopped and resumed run ends with the bits of an undisturbed one."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from remote_trainer import wire
from remote_trainer.errors import TrainingFailed
from remote_trainer.identity import difference, identity_of
from tests.trainer.tiny_runs import SIDE, Watched, final_weights, photo_set, tiny_job

SIZES = ((SIDE, SIDE), (SIDE, SIDE + 16))
CASES = {
    "full, epsilon": ("epsilon_base", {"method": "full"}),
    "full, v, accumulation, prior": (
        "velocity_base",
        {"method": "full", "gradient_accumulation": 2, "batch_size": 2, "min_snr_gamma": 5.0, "class_images": 3},
    ),
    "lora, epsilon, accumulation, prior": (
        "epsilon_base",
        {"method": "lora", "gradient_accumulation": 2, "class_images": 3, "lr_schedule": "cosine"},
    ),
    "full, average, adafactor, weighted": (
        "epsilon_base",
        {
            "method": "full",
            "optimizer": "adafactor",
            "ema_decay": 0.9,
            "caption_dropout": 0.4,
            "noise_offset": 0.1,
            "debiased_estimation": True,
            "lr_schedule": "polynomial",
            "lr_end": 1e-5,
        },
    ),
    "full, bf16": ("velocity_base", {"method": "full", "optimizer": "adamw-bf16", "ema_decay": 0.99}),
    "dora": ("epsilon_base", {"method": "dora", "batch_size": 2}),
    "lora, v": ("velocity_base", {"method": "lora", "batch_size": 2, "lr_warmup_steps": 3, "lr_schedule": "linear"}),
}


@pytest.mark.parametrize("case", CASES)
def test_resuming_in_the_middle_of_an_epoch_repeats_the_bits(case, request, tmp_path):
    """Four photographs in two buckets, seven steps: no stop at 2 or 5 falls on the end of a round."""
    base_name, settings = CASES[case]
    base: Path = request.getfixturevalue(base_name)
    class_images = settings.get("class_images", 0)
    settings = {key: value for key, value in settings.items() if key != "class_images"}
    straight, broken = tmp_path / "straight", tmp_path / "broken"

    def job(folder: Path) -> wire.Job:
        sets = [photo_set(folder, "instance", 4, SIZES)]
        if class_images:
            sets.append(photo_set(folder, "class", class_images))
        formats: tuple[wire.ExportFormat, ...] = (
            ("diffusers",) if settings["method"] == "full" else ("diffusers", "lora")
        )
        return tiny_job(*sets, formats=formats, checkpoint_every=4, **settings)

    undisturbed = Watched().train(job(straight), straight, base)
    resumed_job = job(broken)
    assert Watched(stop_after=2).train(resumed_job, broken, base).step == 2
    assert Watched(stop_after=3).train(resumed_job, broken, base).step == 5
    resumed = Watched().train(resumed_job, broken, base)

    assert resumed.step == undisturbed.step == 7
    expected, got = final_weights(straight), final_weights(broken)
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    assert resumed.manifest_sha256 == undisturbed.manifest_sha256


def test_resuming_from_an_older_checkpoint_repeats_the_bits(epsilon_base, tmp_path):
    """A machine that vanishes loses the newest steps; they are done again, the same."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    stop = random.Random(7).randint(4, 6)
    job = tiny_job(photo_set(straight, "instance", 3), checkpoint_every=3)
    undisturbed = Watched().train(job, straight, epsilon_base)
    photo_set(broken, "instance", 3)
    Watched(stop_after=stop).train(job, broken, epsilon_base)
    shutil.rmtree(broken / wire.checkpoint_folder(stop))
    assert Watched().train(job, broken, epsilon_base).manifest_sha256 == undisturbed.manifest_sha256


def test_a_stop_commits_a_checkpoint_of_the_last_step_and_exports_nothing(epsilon_base, run_folder):
    watched = Watched(stop_after=3)
    outcome = watched.train(tiny_job(photo_set(run_folder, "instance", 2)), run_folder, epsilon_base)
    assert (outcome.step, outcome.manifest_sha256) == (3, None)
    assert [event.step for event in watched.of(wire.CheckpointCommitted)] == [3]
    assert not (run_folder / wire.OUTPUT_FOLDER).exists()


def test_a_stop_before_the_first_step_leaves_nothing_to_resume_from(epsilon_base, run_folder):
    watched = Watched(stop_when=lambda event: isinstance(event, wire.PhaseStarted) and event.name == "encode")
    outcome = watched.train(tiny_job(photo_set(run_folder, "instance", 2)), run_folder, epsilon_base)
    assert (outcome.step, outcome.manifest_sha256) == (0, None)
    assert watched.of(wire.CheckpointCommitted) == []


def test_a_run_stopped_after_its_last_step_goes_straight_to_export(epsilon_base, run_folder):
    job = tiny_job(photo_set(run_folder, "instance", 2), steps=2)
    first = Watched(stop_when=lambda event: isinstance(event, wire.CheckpointCommitted) and event.step == 2)
    assert first.train(job, run_folder, epsilon_base).manifest_sha256 is None
    second = Watched()
    assert second.train(job, run_folder, epsilon_base).manifest_sha256 is not None
    assert second.of(wire.StepDone) == []


def test_a_finished_run_is_confirmed_and_not_repeated(epsilon_base, run_folder):
    job = tiny_job(photo_set(run_folder, "instance", 2), steps=1)
    first = Watched().train(job, run_folder, epsilon_base)
    again = Watched()
    assert again.train(job, run_folder, epsilon_base) == first
    assert again.events == []


def test_a_damaged_output_is_made_again(epsilon_base, run_folder):
    job = tiny_job(photo_set(run_folder, "instance", 2), steps=1)
    first = Watched().train(job, run_folder, epsilon_base)
    (run_folder / "output/diffusers/unet/config.json").unlink()
    assert Watched().train(job, run_folder, epsilon_base) == first


def test_a_job_without_a_learning_rate_is_refused(epsilon_base, run_folder):
    job = tiny_job(photo_set(run_folder, "instance", 2), steps=2, learning_rate=None)
    with pytest.raises(TrainingFailed, match="no learning rate") as refusal:
        Watched().train(job, run_folder, epsilon_base)
    assert refusal.value.code == "bad-job"


def test_a_checkpoint_of_another_method_is_refused(epsilon_base, run_folder):
    photos = photo_set(run_folder, "instance", 2)
    Watched(stop_after=1).train(tiny_job(photos, method="full"), run_folder, epsilon_base)
    with pytest.raises(TrainingFailed, match="other settings: made with method=full, asked for method=lora") as failure:
        Watched().train(tiny_job(photos, method="lora"), run_folder, epsilon_base)
    assert failure.value.code == "bad-job"


def test_a_checkpoint_made_from_other_pictures_is_refused_by_the_set_s_name(epsilon_base, run_folder):
    photos, of_class = photo_set(run_folder, "instance", 2), photo_set(run_folder, "class", 2)
    Watched(stop_after=1).train(tiny_job(photos, of_class), run_folder, epsilon_base)
    fewer = replace(of_class, images=of_class.images[:1])
    with pytest.raises(TrainingFailed, match=r"made with pictures\[class\]=\w{8}, asked for pictures\[class\]=\w{8}"):
        Watched().train(tiny_job(photos, fewer), run_folder, epsilon_base)


@pytest.mark.parametrize(
    ("change", "is_another"),
    [
        ({"folder": "elsewhere"}, False),
        ({"prompt": "a photo of a cat"}, True),
        ({"repeats": 3}, True),
        ({"probability": 0.5}, True),
        ({"mirror": True}, True),
        ({"generate": 4}, True),
        ({"fetch": wire.GitPictures("https://example.com/a.git", "", 3)}, True),
        ({"images": ()}, True),
        ({"images": (wire.ImageSpec("b.png", "00", 64, 64),)}, False),
        ({"images": (wire.ImageSpec("a.png", "11", 64, 64),)}, True),
        ({"images": (wire.ImageSpec("a.png", "00", 64, 64, masked=True),)}, True),
        ({"images": (wire.ImageSpec("a.png", "00", 64, 64, caption="x"),)}, True),
    ],
)
def test_whatever_changes_what_is_learned_from_a_set_makes_it_another(change, is_another):
    first = wire.DatasetSpec("class", "class", "data/class", "a dog", (wire.ImageSpec("a.png", "00", 64, 64),))
    found = identity_of(tiny_job(first))
    assert bool(difference(found, tiny_job(replace(first, **change)))) is is_another
