"""A run learns, says what it decides and reports what it does."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from remote_trainer import class_images, sampling, wire
from remote_trainer.denoising import Denoising
from remote_trainer.families.detect import open_base
from remote_trainer.stopping import StopRequested
from tests.trainer.tiny_runs import CLASS_PROMPT, PROMPT, SIDE, Watched, final_weights, photo_set, tiny_job


@pytest.mark.parametrize("base_name", ["epsilon_base", "velocity_base"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_loss_on_a_fixed_set_falls(method, base_name, request, run_folder):
    job = tiny_job(
        photo_set(run_folder, "instance", 2), method=method, steps=40, checkpoint_every=20, batch_size=2,
        learning_rate=3e-3 if method == "full" else 2e-2, formats=("lora",) if method == "lora" else ("diffusers",),
    )  # fmt: skip
    watched = Watched()
    watched.train(job, run_folder, request.getfixturevalue(base_name))
    evaluations = watched.of(wire.Evaluated)
    assert [evaluation.step for evaluation in evaluations] == [0, 20, 40]
    assert evaluations[2].mean_loss < 0.95 * evaluations[0].mean_loss


def test_a_model_can_be_that_of_the_best_checkpoint(epsilon_base, run_folder):
    """Too large a rate makes the second checkpoint worse than the first."""
    job = tiny_job(
        photo_set(run_folder, "instance", 2), steps=6, checkpoint_every=3, learning_rate=0.3, keep_checkpoints=1,
        export_step="best", formats=("diffusers", "single-file"),
    )  # fmt: skip
    watched = Watched()
    outcome = watched.train(job, run_folder, epsilon_base)
    assert wire.best_checkpoint(watched.of(wire.Evaluated)) == 3
    assert "the model is that of step 3" in [decision.what for decision in watched.of(wire.Decision)]
    kept = load_file(run_folder / wire.checkpoint_folder(3) / "weights.safetensors")
    exported = final_weights(run_folder)
    assert all(torch.equal(exported[name], tensor) for name, tensor in kept.items())
    assert (run_folder / "output/my-dog_3.safetensors").exists()
    record = json.loads((run_folder / "output/training.json").read_bytes())
    assert (record["steps"], record["exported_step"], record["best_step"]) == (6, 3, 0)
    assert Watched().train(job, run_folder, epsilon_base) == outcome


def test_phases_come_in_order(epsilon_base, run_folder):
    job = tiny_job(
        photo_set(run_folder, "instance", 2), photo_set(run_folder, "class", 0, generate=1), steps=1,
        validation_prompts=(PROMPT,),
    )  # fmt: skip
    watched = Watched()
    watched.train(job, run_folder, epsilon_base)
    assert [event.name for event in watched.of(wire.PhaseStarted)] == [
        "load", "class-images", "encode", "load", "validate", "evaluate", "train", "evaluate", "checkpoint", "validate",
        "export", "verify",
    ]  # fmt: skip


def test_the_training_phase_holds_nothing_but_steps(epsilon_base, run_folder):
    """In it a silence of minutes is taken for a hang, and evaluating or saving may be silent for longer."""
    job = tiny_job(photo_set(run_folder, "instance", 2), steps=4, checkpoint_every=2, validation_prompts=(PROMPT,))
    watched = Watched()
    watched.train(job, run_folder, epsilon_base)
    phase, during_training = "", set()
    for event in watched.events:
        if isinstance(event, wire.PhaseStarted):
            phase = event.name
        elif phase == "train":
            during_training.add(type(event))
    assert during_training == {wire.StepDone}


def test_the_last_step_is_always_reported(epsilon_base, run_folder):
    watched = Watched()
    watched.train(tiny_job(photo_set(run_folder, "instance", 2), steps=5), run_folder, epsilon_base)
    last = watched.of(wire.StepDone)[-1]
    assert (last.step, last.of, last.lr) == (5, 5, 1e-3)
    assert last.images_per_s > 0


def test_every_automatic_choice_comes_with_a_reason(epsilon_base, run_folder):
    job = tiny_job(photo_set(run_folder, "instance", 2), steps=1, cpu_threads=None)
    watched = Watched()
    watched.train(job, run_folder, epsilon_base)
    decisions = watched.of(wire.Decision)
    said = " | ".join(event.what for event in decisions)
    for choice in ("train on the CPU", "1 CPU thread", "precision fp32", "encode pictures"):
        assert choice in said
    assert all(event.why for event in decisions)


def test_the_loss_of_a_micro_batch_is_a_function_of_its_number(epsilon_base, tmp_path):
    from remote_trainer.dataset.pictures import training_set
    from remote_trainer.encoded import encode_prompts, encode_sets
    from remote_trainer.micro_batch import MicroBatches

    job = tiny_job(photo_set(tmp_path, "instance", 2), batch_size=1, gradient_accumulation=2)
    family, cpu = open_base(str(epsilon_base)), torch.device("cpu")
    denoising = Denoising(family, family.load_denoiser(cpu).requires_grad_(True), cpu, "fp32")
    sets = encode_sets(family, training_set(job, tmp_path).sets, 42, cpu, lambda: False)
    batches = MicroBatches(job.train, denoising, sets, encode_prompts(family, [PROMPT], cpu, lambda _: None))
    first, second = batches.loss(1, 0), batches.loss(1, 1)
    assert first.item() != second.item()
    assert batches.loss(1, 1).item() == second.item()


def test_a_prompt_longer_than_the_model_s_window_is_warned_of(epsilon_base, run_folder):
    """The test base's vocabulary knows letters only and its window is 16 tokens, 2 of which frame the text."""
    photos = dataclasses.replace(photo_set(run_folder, "instance", 1), prompt="a" * 20)
    watched = Watched()
    watched.train(tiny_job(photos, steps=1), run_folder, epsilon_base)
    assert ["last 6 tokens" in event.message for event in watched.of(wire.Warned)] == [True]


def test_bfloat16_stays_close_to_float32(epsilon_base, tmp_path):
    losses = {}
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        watched = Watched()
        job = tiny_job(photo_set(folder, "instance", 2), steps=2, precision=precision)
        watched.train(job, folder, epsilon_base)
        losses[precision] = watched.of(wire.Evaluated)[-1].mean_loss
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)


def test_validation_pictures_are_announced_and_lie_where_they_are_said_to(epsilon_base, run_folder):
    prompts = (PROMPT, "a red car")
    job = tiny_job(photo_set(run_folder, "instance", 2), steps=5, validate_every=2, validation_prompts=prompts)
    watched = Watched()
    watched.train(job, run_folder, epsilon_base)
    samples = watched.of(wire.SampleMade)
    assert [(sample.step, sample.prompt) for sample in samples] == [(s, p) for s in (0, 2, 4, 5) for p in prompts]
    for sample in samples:
        assert (run_folder / sample.file.path).stat().st_size == sample.file.bytes
    assert samples[0].file.path == "validation/step-000000/00.png"
    with Image.open(run_folder / "output/before-after.png") as grid:
        assert grid.width > 2 * 64


def test_pictures_of_before_are_the_base_s_even_when_made_by_a_resumed_run(epsilon_base, tmp_path):
    folders = [tmp_path / "straight", tmp_path / "moved"]
    jobs = [tiny_job(photo_set(folder, "instance", 2), steps=3, validation_prompts=(PROMPT,)) for folder in folders]
    Watched().train(jobs[0], folders[0], epsilon_base)
    Watched(stop_after=2).train(jobs[1], folders[1], epsilon_base)
    (folders[1] / "validation/step-000000/00.png").unlink()
    Watched().train(jobs[1], folders[1], epsilon_base)
    first, second = ((folder / "output/before-after.png").read_bytes() for folder in folders)
    assert first == second


def test_pictures_do_not_disturb_training(epsilon_base, tmp_path):
    outcomes = []
    for name, prompts in (("with", (PROMPT,)), ("without", ())):
        folder = tmp_path / name
        job = tiny_job(photo_set(folder, "instance", 2), steps=3, validate_every=1, validation_prompts=prompts)
        Watched().train(job, folder, epsilon_base)
        outcomes.append((folder / "output/diffusers/unet/diffusion_pytorch_model.safetensors").read_bytes())
    assert outcomes[0] == outcomes[1]


def test_guidance_changes_the_picture(epsilon_base):
    family, cpu = open_base(str(epsilon_base)), torch.device("cpu")
    denoising = Denoising(family, family.load_denoiser(cpu), cpu, "fp32")
    encoder = family.load_text_encoder(cpu)
    text, negative = encoder.encode([PROMPT]), encoder.encode([""])
    drawn = [
        sampling.sample_latents(denoising, text, negative, [("k", 0)], sampling.SamplerSettings(2, scale, SIDE))
        for scale in (1.0, 7.5)
    ]
    assert drawn[0].shape == (1, 4, SIDE // 2, SIDE // 2)
    assert not torch.equal(*drawn)


def test_our_sampler_draws_what_the_pipeline_draws(epsilon_base):
    """The same initial noise through `StableDiffusionPipeline` gives the same latents."""
    family, cpu = open_base(str(epsilon_base)), torch.device("cpu")
    from remote_trainer.draws import generator

    denoising = Denoising(family, family.load_denoiser(cpu), cpu, "fp32")
    encoder = family.load_text_encoder(cpu)
    settings = sampling.SamplerSettings(3, 4.0, SIDE)
    ours = sampling.sample_latents(denoising, encoder.encode([PROMPT]), encoder.encode([""]), [("k",)], settings)
    pipeline = family.load_pipeline(epsilon_base)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn((1, 4, SIDE // 2, SIDE // 2), generator=generator("sample", "k"))
    theirs = pipeline(
        PROMPT, height=SIDE, width=SIDE, num_inference_steps=3, guidance_scale=4.0, latents=noise, output_type="latent"
    ).images
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


class TestClassImages:
    def job(self, run_folder, count=3):
        return tiny_job(
            photo_set(run_folder, "instance", 1), photo_set(run_folder, "class", 0, generate=count), steps=1
        )

    settings = sampling.SamplerSettings(2, 4.0, SIDE)

    def shelf(self, job, folder=None, settings=settings):
        return class_images.Shelf(folder, job, settings, "cpu", "fp32")

    def generate(self, job, run_folder, base, should_stop=lambda: False, shelf=None):
        family, cpu = open_base(str(base)), torch.device("cpu")
        denoising = Denoising(family, family.load_denoiser(cpu), cpu, "fp32")
        prompts = class_images.prompts_of(job, family, cpu)
        shelf = shelf or self.shelf(job)
        class_images.generate(job, run_folder, denoising, prompts, self.settings, shelf, lambda _: None, should_stop)

    def contents(self, run_folder):
        return [path.read_bytes() for path in sorted((run_folder / "class/generated").glob("*.png"))]

    def test_generation_continues_where_it_was_stopped(self, epsilon_base, tmp_path):
        straight, broken = tmp_path / "straight", tmp_path / "broken"
        self.generate(self.job(straight), straight, epsilon_base)
        polls = iter([False, True])
        with pytest.raises(StopRequested):
            self.generate(self.job(broken), broken, epsilon_base, lambda: next(polls))
        assert class_images.missing(self.job(broken), broken) == 2
        self.generate(self.job(broken), broken, epsilon_base)
        assert self.contents(broken) == self.contents(straight)

    def test_a_later_run_takes_them_from_the_shelf_and_makes_the_rest(self, epsilon_base, tmp_path):
        first, more, alone = (self.job(tmp_path / name, count) for name, count in (("1", 2), ("2", 3), ("3", 3)))
        self.generate(first, tmp_path / "1", epsilon_base, shelf=self.shelf(first, tmp_path / "shelf"))
        watched = Watched()
        self.shelf(more, tmp_path / "shelf").take(tmp_path / "2", watched.emit)
        assert class_images.missing(more, tmp_path / "2") == 1
        assert [event.what for event in watched.of(wire.Decision)] == ["2 class images are used again"]
        self.generate(more, tmp_path / "2", epsilon_base)
        self.generate(alone, tmp_path / "3", epsilon_base)
        assert self.contents(tmp_path / "2") == self.contents(tmp_path / "3")

    @pytest.mark.parametrize("other", [{"seed": 43}, {"prompt": "a photo of a cat"}, {"steps": 3}])
    def test_what_another_setting_made_is_left_on_the_shelf(self, tmp_path, other):
        job = self.job(tmp_path)
        changed = dataclasses.replace(job, train=dataclasses.replace(job.train, seed=other.get("seed", 42)))
        spec = job.datasets[1]
        settings = sampling.SamplerSettings(other.get("steps", 2), 4.0, SIDE)
        asked = dataclasses.replace(spec, prompt=other.get("prompt", spec.prompt))
        assert self.shelf(job, tmp_path).place(spec, 0) == self.shelf(job, tmp_path).place(spec, 0)
        assert self.shelf(changed, tmp_path, settings).place(asked, 0) != self.shelf(job, tmp_path).place(spec, 0)

    def test_a_sheet_shows_them_once(self, epsilon_base, tmp_path):
        job, watched = self.job(tmp_path), Watched()
        self.generate(job, tmp_path, epsilon_base)
        class_images.show(job, tmp_path, watched.emit)
        class_images.show(job, tmp_path, watched.emit)
        (sample,) = watched.of(wire.SampleMade)
        assert (sample.prompt, sample.file.path) == (
            f"3 class images: {CLASS_PROMPT}",
            "validation/class-images-class.png",
        )
        assert Image.open(tmp_path / sample.file.path).size == (192, 192)

    def test_each_picture_differs(self, epsilon_base, run_folder):
        self.generate(self.job(run_folder), run_folder, epsilon_base)
        assert len(set(self.contents(run_folder))) == 3

    def test_pictures_that_exist_are_not_made_again(self, epsilon_base, run_folder):
        job = self.job(run_folder)
        self.generate(job, run_folder, epsilon_base)
        before = {path: path.stat().st_mtime_ns for path in (run_folder / "class/generated").iterdir()}
        self.generate(job, run_folder, epsilon_base)
        assert {path: path.stat().st_mtime_ns for path in (run_folder / "class/generated").iterdir()} == before

    def test_class_images_change_what_is_learned(self, epsilon_base, tmp_path):
        weights = []
        for name, sets in (("without", 0), ("with", 1)):
            folder = tmp_path / name
            datasets = [photo_set(folder, "instance", 1)] + [photo_set(folder, "class", 1)] * sets
            Watched().train(tiny_job(*datasets, steps=2), folder, epsilon_base)
            weights.append((folder / "output/diffusers/unet/diffusion_pytorch_model.safetensors").read_bytes())
        assert weights[0] != weights[1]

    def test_the_class_prompt_conditions_the_class_samples(self, run_folder):
        from remote_trainer.dataset.pictures import training_set

        pictures = training_set(self.job(run_folder), run_folder)
        assert {picture.caption for picture in pictures.class_} == {CLASS_PROMPT}
        assert {picture.caption for picture in pictures.instance} == {PROMPT}
