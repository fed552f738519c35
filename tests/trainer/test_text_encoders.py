"""Text encoders that train beside the denoiser: what they learn, at which rate, and every file that holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from remote_trainer import adapters, wire
from remote_trainer.dataset.pictures import load_pixels, training_set
from remote_trainer.denoising import Denoising
from remote_trainer.draws import draw
from remote_trainer.encoded import encode_sets, live_prompts
from remote_trainer.errors import TrainingFailed
from remote_trainer.families.detect import open_base
from remote_trainer.micro_batch import MicroBatches
from tests.trainer.tiny_flux import build_flux_base
from tests.trainer.tiny_runs import PROMPT, Watched, photo_set, tiny_job
from tests.trainer.tiny_sdxl import build_sdxl_base

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def xl_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sdxl_base(tmp_path_factory.mktemp("bases") / "sdxl")


def job_of(folder: Path, method: wire.Method, formats: tuple[wire.ExportFormat, ...], **settings: Any) -> wire.Job:
    defaults = {"steps": 2, "learning_rate": 1e-2, "text_encoder_learning_rate": 5e-3, "lora_alpha": 6.0}
    return tiny_job(photo_set(folder, "instance", 2), method=method, formats=formats, **{**defaults, **settings})


def base_text(base: Path, component: str) -> dict[str, torch.Tensor]:
    return {adapters.text_layer(name): t for name, t in load_file(base / component / "model.safetensors").items()}


# ---- what they learn -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base_name", ["epsilon_base", "velocity_base"])
def test_loss_and_gradients_are_those_of_the_pipeline_s_own_parts(base_name, request, tmp_path):
    """All weights of UNet and text encoder, calculated once more as diffusers' training script does it."""
    from diffusers import DDPMScheduler, StableDiffusionPipeline

    base: Path = request.getfixturevalue(base_name)
    job = tiny_job(photo_set(tmp_path, "instance", 1))
    family, pictures = open_base(str(base)), training_set(job, tmp_path)
    prompts = live_prompts(family, [PROMPT], CPU, "fp32", lambda _: None)
    trained = adapters.Trained(family.load_denoiser(CPU), prompts.encoder.models)
    adapters.make_trainable(job.train, family, trained)
    sets = encode_sets(family, pictures.sets, job.train.seed, CPU, lambda: False)
    ours = MicroBatches(job.train, Denoising(family, trained.denoiser, CPU, "fp32"), sets, prompts).loss(1, 0)
    torch.autograd.backward(ours)

    pipeline = StableDiffusionPipeline.from_pretrained(base)
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    unet, text = pipeline.unet.requires_grad_(True), pipeline.text_encoder.requires_grad_(True)
    with torch.no_grad():
        posterior = pipeline.vae.encode(load_pixels(pictures.instance[0])[None]).latent_dist
    drawn = draw(job.train.seed, 1, 0, 0, 1, tuple(posterior.mean.shape[1:]), 1000)
    latents = (posterior.mean + posterior.std * drawn.posterior_noise) * pipeline.vae.config.scaling_factor
    words = pipeline.tokenizer(PROMPT, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    noisy = schedule.add_noise(latents, drawn.noise, drawn.timesteps)
    predicted = unet(noisy, drawn.timesteps, encoder_hidden_states=text(words.input_ids)[0]).sample
    velocity = schedule.config.prediction_type == "v_prediction"
    wanted = schedule.get_velocity(latents, drawn.noise, drawn.timesteps) if velocity else drawn.noise
    theirs = torch.nn.functional.mse_loss(predicted, wanted)
    theirs.backward()

    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    expected = {**dict(unet.named_parameters()), **{f"text_encoder.{n}": p for n, p in text.named_parameters()}}
    assert expected.keys() == trained.parameters().keys()
    for name, parameter in trained.parameters().items():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-5, msg=name)
    assert expected["text_encoder.final_layer_norm.weight"].grad.abs().max() > 0


def test_they_have_a_rate_of_their_own(epsilon_base, tmp_path):
    moved = {}
    for rate in (1e-4, 1e-3):
        folder = tmp_path / str(rate)
        job = job_of(folder, "full", ("diffusers",), steps=1, learning_rate=1e-5, text_encoder_learning_rate=rate)
        Watched().train(job, folder, epsilon_base)
        after = base_text(folder / "output/diffusers", "text_encoder")
        before = base_text(epsilon_base, "text_encoder")
        moved[rate] = max((after[name] - before[name]).abs().max().item() for name in before)
    # The first step of Adam moves every weight by its rate, whatever the gradient; weight decay adds a hundredth.
    assert moved[1e-4] == pytest.approx(1e-4, rel=0.05)
    assert moved[1e-3] == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_resuming_repeats_the_bits(method, epsilon_base, tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    formats: tuple[wire.ExportFormat, ...] = ("diffusers",)
    undisturbed = Watched().train(job_of(straight, method, formats, steps=3), straight, epsilon_base)
    assert Watched(stop_after=1).train(job_of(broken, method, formats, steps=3), broken, epsilon_base).step == 1
    assert Watched().train(job_of(broken, method, formats, steps=3), broken, epsilon_base) == undisturbed
    trained = base_text(straight / "output/diffusers", "text_encoder")
    original = base_text(epsilon_base, "text_encoder")
    assert trained.keys() == original.keys()
    assert any(not torch.equal(trained[name], original[name]) for name in original)


def test_a_checkpoint_without_them_is_not_gone_on_with(epsilon_base, run_folder):
    job = job_of(run_folder, "lora", ("lora",), steps=3, text_encoder_learning_rate=None)
    Watched(stop_after=1).train(job, run_folder, epsilon_base)
    with pytest.raises(TrainingFailed, match="made by a run with other settings"):
        Watched().train(job_of(run_folder, "lora", ("lora",), steps=3), run_folder, epsilon_base)


def test_a_family_whose_text_encoders_are_too_large_refuses(tmp_path, run_folder):
    base = build_flux_base(tmp_path / "base")
    with pytest.raises(TrainingFailed, match="text encoders of a flux-1 cannot be trained"):
        Watched().train(job_of(run_folder, "lora", ("lora",)), run_folder, base)


def test_a_dora_of_them_is_refused_since_nothing_opens_it(epsilon_base, run_folder):
    with pytest.raises(TrainingFailed, match="cannot be trained by the method dora"):
        Watched().train(job_of(run_folder, "dora", ("lora",)), run_folder, epsilon_base)


# ---- the files; every one was loaded back and compared before a run ended --------------------------------------------


def pictures_differ(pipeline: Any, folder: Path, file: str) -> bool:
    """Whether the prompt means something else with the LoRA file on, the UNet left alone."""
    pipeline.unet.requires_grad_(False)
    words = pipeline.tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        before = pipeline.text_encoder(words)[0]
        pipeline.load_lora_weights(folder, weight_name=file)
        return not torch.allclose(before, pipeline.text_encoder(words)[0])


def test_lora_files_of_stable_diffusion_hold_its_text_encoder(epsilon_base, run_folder):
    from diffusers import StableDiffusionPipeline

    formats: tuple[wire.ExportFormat, ...] = ("lora", "kohya-lora", "single-file")
    Watched().train(job_of(run_folder, "lora", formats), run_folder, epsilon_base)
    output = run_folder / "output"
    names = set(load_file(output / "my-dog-kohya.safetensors"))
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight" in names
    assert "lora_te_text_model_encoder_layers_0_self_attn_out_proj.alpha" in names
    assert any(n.startswith("text_encoder.text_model.encoder") for n in load_file(output / "my-dog.safetensors"))
    for file in ("my-dog.safetensors", "my-dog-kohya.safetensors"):
        assert pictures_differ(StableDiffusionPipeline.from_pretrained(epsilon_base), output, file)
    original = base_text(epsilon_base, "text_encoder")
    name = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    fused = load_file(output / "my-dog_2.safetensors")[f"cond_stage_model.transformer.{name}"]
    assert not torch.equal(fused, original[name])


def test_lora_files_of_sdxl_hold_both_text_encoders(xl_base, run_folder):
    formats: tuple[wire.ExportFormat, ...] = ("lora", "kohya-lora", "diffusers")
    Watched().train(job_of(run_folder, "lora", formats), run_folder, xl_base)
    output = run_folder / "output"
    kohya = load_file(output / "my-dog-kohya.safetensors")
    for number in (1, 2):
        up = kohya[f"lora_te{number}_text_model_encoder_layers_0_self_attn_v_proj.lora_up.weight"]
        assert up.abs().max() > 0
    plain = load_file(output / "my-dog.safetensors")
    for component in ("text_encoder", "text_encoder_2"):
        name = f"{component}.text_model.encoder.layers.0.self_attn.v_proj.lora_B.weight"
        assert plain[name].abs().max() > 0
        trained, original = base_text(output / "diffusers", component), base_text(xl_base, component)
        assert trained.keys() == original.keys()
        assert not torch.equal(*(t["text_model.encoder.layers.0.self_attn.v_proj.weight"] for t in (trained, original)))
