"""What every family on a flow promises, told once: a test file of one family gives a base and calls these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from remote_trainer import adapters, sampling, wire
from remote_trainer.checkpoint import newest
from remote_trainer.dataset.pictures import load_pixels, training_set
from remote_trainer.denoising import Denoising
from remote_trainer.draws import Draws, draw, generator
from remote_trainer.encoded import encode_prompts, encode_sets
from remote_trainer.export import lora_file
from remote_trainer.export.digests import digests
from remote_trainer.families.api import Family
from remote_trainer.families.detect import open_base
from remote_trainer.micro_batch import MicroBatches
from tests.trainer.tiny_runs import CLASS_PROMPT, PROMPT, SIDE, Watched, photo_set, tiny_job

CPU = torch.device("cpu")
SIZES = ((SIDE, SIDE), (SIDE, SIDE + 16))


def silent(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def wrapped_denoiser(family: Family) -> torch.nn.Module:
    """With a LoRA whose every factor says something, so that every gradient is there."""
    denoiser = family.load_denoiser(CPU)
    adapters.add_lora(denoiser, 2, 2.0, family.lora_targets, seed=1)
    with torch.no_grad():
        for name, parameter in adapters.trainable(denoiser).items():
            parameter.copy_(torch.randn(parameter.shape, generator=generator("gradient", name)) * 0.3)
    return denoiser


def our_loss(family: Family, denoiser: torch.nn.Module, job: wire.Job, run_folder: Path) -> torch.Tensor:
    sets = encode_sets(family, training_set(job, run_folder).sets, job.train.seed, CPU, lambda: False)
    prompts = encode_prompts(family, [PROMPT, CLASS_PROMPT], CPU, lambda _: None)
    return MicroBatches(job.train, Denoising(family, denoiser, CPU, "fp32"), sets, prompts).loss(1, 0)


def fixed_job(run_folder: Path) -> wire.Job:
    """One photo and one class image, wider than high, under a prior-preservation loss."""
    sets = [photo_set(run_folder, role, 1, ((SIDE + 16, SIDE),)) for role in ("instance", "class")]
    return tiny_job(*sets, method="lora", prior_loss_weight=0.5)


def fixed_batch(job: wire.Job, run_folder: Path, latent_shape: tuple[int, ...]) -> list[tuple[Any, str, Draws, float]]:
    """(pixels, prompt, draws, weight in the loss) of each sample of `fixed_job`'s first step."""
    pictures = training_set(job, run_folder)
    rows = [(pictures.instance[0], PROMPT, 1.0), (pictures.class_[0], CLASS_PROMPT, 0.5)]
    return [
        (
            load_pixels(picture)[None], prompt,
            draw(job.train.seed, 1, 0, index, 1, latent_shape, 1000, "logit-normal"), weight,
        )
        for index, (picture, prompt, weight) in enumerate(rows)
    ]  # fmt: skip


def gradients(denoiser: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    parameters = adapters.trainable(denoiser)
    found = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


def assert_same_loss_and_gradients(ours: tuple[Any, Any], theirs: tuple[Any, Any], *, idle: str = "nowhere") -> None:
    """Of (denoiser, loss) each. All gradients say something, but for layers of whose names `idle` is a part."""
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-4, atol=1e-6)
    got, expected = gradients(*ours), gradients(*theirs)
    assert [name for name, gradient in expected.items() if gradient.abs().max() == 0 and idle not in name] == []
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def our_latents(base: Path, guidance: float) -> torch.Tensor:
    """Of a picture in three steps, from the noise of the key "k"."""
    family = open_base(str(base))
    denoising = Denoising(family, family.load_denoiser(CPU), CPU, "fp32")
    encoder = family.load_text_encoder(CPU)
    settings = sampling.SamplerSettings(3, guidance, SIDE)
    return sampling.sample_latents(denoising, encoder.encode([PROMPT]), encoder.encode([""]), [("k",)], settings)


def train_broken_and_straight(base: Path, folder: Path, method: wire.Method) -> Path:
    """Photographs in two buckets and a class image that the base makes itself; the broken run stops in the middle of an
    epoch. Asserts that both end in the same bits; every export was loaded back before. Returns the output.
    """
    straight, broken = folder / f"{method}-straight", folder / f"{method}-broken"

    def job(run_folder: Path) -> wire.Job:
        sets = (photo_set(run_folder, "instance", 3, SIZES), photo_set(run_folder, "class", 0, generate=1))
        return tiny_job(
            *sets, method=method, steps=3, checkpoint_every=3, resolution=SIDE, formats=("lora",), lora_alpha=6.0,
            learning_rate=1e-2, validation_prompts=(PROMPT,), validate_every=0,
        )  # fmt: skip

    undisturbed = Watched().train(job(straight), straight, base)
    assert Watched(stop_after=1).train(job(broken), broken, base).step == 1
    assert newest(broken) is not None
    assert Watched().train(job(broken), broken, base) == undisturbed
    output = straight / wire.OUTPUT_FOLDER
    assert {path.name for path in output.iterdir()} == {
        "my-dog.safetensors", "before-after.png", "training.json", "README.md", "manifest.json",
    }  # fmt: skip
    tensors = load_file(output / "my-dog.safetensors")
    assert any(".lora_B." in name and tensor.abs().max() > 0 for name, tensor in tensors.items())
    return output


def assert_a_dora_file_loads_back(base: Path, path: Path) -> None:
    """`verify` compares every tensor, lengths included."""
    family = open_base(str(base))
    denoiser = family.load_denoiser(CPU)
    adapters.add_lora(denoiser, 2, 2.0, family.lora_targets, seed=1, decomposed=True)
    tensors = adapters.lora_tensors(denoiser, 1.0)
    assert any("magnitude" in name for name in tensors)
    lora_file.write(family, tensors, path)
    lora_file.verify(family, digests(tensors), path)


def assert_the_lora_file_changes_the_pipeline(output: Path, pipeline: Any, **call: Any) -> None:
    """A user's way: the base's pipeline, the file, a picture."""
    drawn = []
    for _ in range(2):
        seed = torch.Generator().manual_seed(5)
        drawn.append(pipeline(num_inference_steps=2, height=SIDE, width=SIDE, generator=seed, output_type="pt", **call))
        pipeline.load_lora_weights(output, weight_name="my-dog.safetensors")
    before, after = (torch.as_tensor(each.images) for each in drawn)
    assert not torch.equal(before, after)
