"""What cannot be trained is named by its kind, with a next step."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import shutil

import pytest
import torch
from safetensors import SafetensorError

from remote_trainer import decisions, wire
from remote_trainer.dataset.pictures import load_pixels, training_set
from remote_trainer.errors import TrainingFailed
from remote_trainer.failures import named_failures
from remote_trainer.optimizers import learning_rate
from remote_trainer.progress import Progress
from tests.trainer.tiny_runs import SIDE, Watched, photo_set, tiny_job

SPEC = wire.TrainSpec()


def failure_of(job, run_folder, base) -> TrainingFailed:
    with pytest.raises(TrainingFailed) as failure:
        Watched().train(job, run_folder, base)
    return failure.value


def test_a_learning_rate_that_explodes_is_named_and_commits_nothing_spoiled(epsilon_base, run_folder):
    job = tiny_job(
        photo_set(run_folder, "instance", 2), steps=30, learning_rate=1e30, max_grad_norm=1e30, checkpoint_every=30
    )
    failure = failure_of(job, run_folder, epsilon_base)
    assert failure.code == "diverged"
    assert "train.learning_rate" in failure.hint
    assert not (run_folder / "checkpoints").exists()


def test_a_gradient_that_is_not_finite_is_noticed_before_a_checkpoint():
    progress = Progress(10, 1, torch.device("cpu"), lambda _: None)
    progress.step_done(1, torch.tensor(1.0), torch.tensor(1.0), 1e-3)
    progress.step_done(2, torch.tensor(1.0), torch.tensor(float("inf")), 1e-3)
    with pytest.raises(TrainingFailed, match="step 2"):
        progress.require_finite(2, 1e-3)


def test_a_full_disk_is_named():
    with pytest.raises(TrainingFailed) as failure, named_failures(SPEC):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert failure.value.code == "disk-full"


def test_a_full_disk_is_recognized_when_safetensors_meets_it():
    with pytest.raises(TrainingFailed) as failure, named_failures(SPEC):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert failure.value.code == "disk-full"


def test_other_system_errors_pass_unchanged():
    with pytest.raises(PermissionError), named_failures(SPEC):
        raise PermissionError(errno.EACCES, "no")


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"batch_size": 4, "gradient_accumulation": 2}, "train.gradient_accumulation = 8"),
        ({"method": "full"}, 'train.method = "lora"'),
        ({"method": "lora"}, "train.resolution"),
    ],
)
def test_exhausted_memory_names_the_setting_that_helps(settings, setting):
    with pytest.raises(TrainingFailed) as failure, named_failures(wire.TrainSpec(**settings)):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert failure.value.code == "out-of-memory"
    assert setting in failure.value.hint


def test_the_cpu_allocator_s_refusal_is_exhausted_memory():
    with pytest.raises(TrainingFailed) as failure, named_failures(SPEC):
        torch.empty(1 << 60, dtype=torch.uint8)
    assert failure.value.code == "out-of-memory"


def test_a_base_that_is_nowhere_is_named(run_folder, tmp_path):
    failure = failure_of(tiny_job(photo_set(run_folder, "instance", 1)), run_folder, tmp_path / "no-such-base")
    assert failure.code == "base-not-found"
    assert "no-such-base" in failure.message


def test_a_hub_id_that_cannot_be_downloaded_is_named(run_folder):
    failure = failure_of(tiny_job(photo_set(run_folder, "instance", 1)), run_folder, "nobody/no-such-model@main")
    assert failure.code == "base-not-found"
    assert "https://huggingface.co/nobody/no-such-model" in failure.hint


def test_a_folder_that_is_no_pipeline_is_named(run_folder, tmp_path):
    failure = failure_of(tiny_job(photo_set(run_folder, "instance", 1)), run_folder, tmp_path)
    assert failure.code == "base-not-found"
    assert "model_index.json" in failure.message


def test_a_family_we_cannot_train_is_named(run_folder, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    failure = failure_of(tiny_job(photo_set(run_folder, "instance", 1)), run_folder, tmp_path)
    assert (failure.code, "KandinskyPipeline" in failure.message) == ("bad-job", True)


def test_a_base_without_its_unet_weights_is_named(epsilon_base, run_folder, tmp_path):
    base = shutil.copytree(epsilon_base, tmp_path / "base")
    next((base / "unet").glob("*.safetensors")).unlink()
    failure = failure_of(tiny_job(photo_set(run_folder, "instance", 1)), run_folder, base)
    assert failure.code == "base-not-found"
    assert "unet" in failure.message


def test_a_cpu_is_refused_unless_the_job_allows_it(epsilon_base, run_folder):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, which is then used")
    job = dataclasses.replace(tiny_job(photo_set(run_folder, "instance", 1)), allow_cpu=False)
    failure = failure_of(job, run_folder, epsilon_base)
    assert failure.code == "no-gpu"
    assert "compute.allow_cpu" in failure.hint


def test_a_job_without_a_picture_of_the_subject_is_refused(run_folder):
    with pytest.raises(TrainingFailed, match="no picture of the subject"):
        training_set(tiny_job(photo_set(run_folder, "class", 1)), run_folder)


def test_a_subject_cannot_be_generated(run_folder):
    with pytest.raises(TrainingFailed, match="invent"):
        training_set(tiny_job(photo_set(run_folder, "instance", 1, generate=2)), run_folder)


def test_a_bucket_the_autoencoder_cannot_halve_is_refused(epsilon_base, run_folder):
    job = tiny_job(photo_set(run_folder, "instance", 1, sizes=((33, 32),)))
    assert failure_of(job, run_folder, epsilon_base).code == "bad-job"


class TestPictures:
    def picture(self, run_folder, width=48, height=40):
        job = tiny_job(photo_set(run_folder, "instance", 1, sizes=((width, height),)))
        return training_set(job, run_folder).instance[0]

    def test_a_picture_is_cropped_at_its_center(self, run_folder):
        whole = self.picture(run_folder)
        center = dataclasses.replace(whole, width=SIDE, height=SIDE)
        assert torch.equal(load_pixels(center), load_pixels(whole)[:, 4:36, 8:40])

    def test_pixels_span_minus_one_to_one(self, run_folder):
        pixels = load_pixels(self.picture(run_folder))
        assert pixels.shape == (3, 40, 48)
        assert pixels.min() == -1.0
        assert pixels.max() <= 1.0

    @pytest.mark.parametrize("damage", ["missing", "changed", "unreadable", "too small"])
    def test_a_picture_that_cannot_be_used_is_named_with_its_path(self, run_folder, damage):
        picture = self.picture(run_folder)
        if damage == "missing":
            picture.path.unlink()
        elif damage == "changed":
            picture.path.write_bytes(picture.path.read_bytes() + b"\0")
        elif damage == "unreadable":
            picture.path.write_bytes(b"text")
            picture = dataclasses.replace(picture, sha256=None)
        else:
            picture = dataclasses.replace(picture, width=64)
        with pytest.raises(TrainingFailed) as failure:
            load_pixels(picture)
        assert failure.value.code == "bad-image"
        assert str(picture.path) in failure.value.message


class TestDecisions:
    def test_a_large_model_gets_all_physical_cores(self):
        threads = decisions.choose_cpu_threads(SPEC, torch.device("cpu"), 10**9, lambda _: None)
        assert threads == decisions.physical_cores()

    def test_the_job_s_thread_count_wins(self):
        spec = dataclasses.replace(SPEC, cpu_threads=3)
        assert decisions.choose_cpu_threads(spec, torch.device("cpu"), 10**9, lambda _: None) == 3


class TestLearningRate:
    def rates(self, **settings):
        spec = wire.TrainSpec(steps=10, **settings)
        return [learning_rate(step, spec, 1.0) for step in range(1, 11)]

    def test_constant_stays(self):
        assert self.rates() == [1.0] * 10

    def test_warm_up_rises_evenly_and_never_starts_at_zero(self):
        assert self.rates(lr_warmup_steps=3)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])

    @pytest.mark.parametrize("schedule", ["linear", "cosine"])
    def test_a_falling_schedule_begins_at_the_peak_and_ends_at_its_end(self, schedule):
        rates = self.rates(lr_schedule=schedule, lr_end=0.1, lr_warmup_steps=2)
        assert rates[2] == 1.0
        assert rates[-1] == pytest.approx(0.1)
        assert all(later < earlier for earlier, later in itertools.pairwise(rates[2:]))

    def test_cosine_is_half_way_in_the_middle(self):
        spec = wire.TrainSpec(steps=11, lr_schedule="cosine")
        assert learning_rate(6, spec, 1.0) == pytest.approx(0.5)
