"""Stable Diffusion 3 and 3.5: what they are told, what they learn, and the file that holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from remote_trainer.draws import generator
from remote_trainer.errors import TrainingFailed
from remote_trainer.families.detect import open_base
from tests.trainer import flow_specs
from tests.trainer.flow_specs import CPU, fixed_batch, fixed_job, our_latents, our_loss, silent, wrapped_denoiser
from tests.trainer.tiny_runs import PROMPT, SIDE, Watched, photo_set, tiny_job
from tests.trainer.tiny_sd3 import build_sd3_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sd3_base(tmp_path_factory.mktemp("bases") / "sd3")


@pytest.fixture(scope="module")
def pipeline(base: Path) -> Any:
    from diffusers import StableDiffusion3Pipeline

    return silent(StableDiffusion3Pipeline.from_pretrained(base))


@torch.no_grad()
def test_prompts_are_embedded_as_the_pipeline_embeds_them(base, pipeline):
    ours = open_base(str(base)).load_text_encoder(CPU).encode([PROMPT, ""])
    tokens, no_tokens, pooled, not_pooled = pipeline.encode_prompt(PROMPT, None, None)
    torch.testing.assert_close(ours.tokens, torch.cat([tokens, no_tokens]))
    torch.testing.assert_close(ours.pooled, torch.cat([pooled, not_pooled]))


def test_where_t5_was_left_out_zeros_stand_in_its_place(tmp_path):
    family = open_base(str(build_sd3_base(tmp_path / "base", with_t5=False)))
    tokens = family.load_text_encoder(CPU).encode([PROMPT]).tokens
    assert tokens.shape == (1, 16 + 256, 40)
    assert tokens[:, :16].abs().max() > 0
    assert tokens[:, 16:].abs().max() == 0


def test_our_sampler_draws_what_the_pipeline_draws(base, pipeline):
    noise = torch.randn((1, 4, SIDE // 2, SIDE // 2), generator=generator("sample", "k"))
    theirs = pipeline(
        PROMPT, height=SIDE, width=SIDE, num_inference_steps=3, guidance_scale=4.0, latents=noise, output_type="latent"
    ).images
    torch.testing.assert_close(our_latents(base, 4.0), theirs, rtol=1e-4, atol=1e-4)


def test_loss_and_gradients_are_those_of_the_pipeline_s_own_parts(base, pipeline, tmp_path):
    """One step with prior preservation, calculated once more as diffusers' training script does it."""
    family, job = open_base(str(base)), fixed_job(tmp_path)
    ours, theirs = wrapped_denoiser(family), wrapped_denoiser(family)
    expected, schedule, vae = torch.zeros(()), pipeline.scheduler, pipeline.vae
    schedule = type(schedule).from_config(schedule.config)
    for pixels, prompt, drawn, weight in fixed_batch(job, tmp_path, (4, SIDE // 2, (SIDE + 16) // 2)):
        with torch.no_grad():
            posterior = vae.encode(pixels).latent_dist
            tokens, _, pooled, _ = pipeline.encode_prompt(prompt, None, None, do_classifier_free_guidance=False)
        latents = posterior.mean + posterior.std * drawn.posterior_noise
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        place = 999 - drawn.timesteps  # the scheduler counts from the most noise to the least
        sigma = schedule.sigmas[place].view(-1, 1, 1, 1)
        predicted = theirs(
            hidden_states=(1.0 - sigma) * latents + sigma * drawn.noise, timestep=schedule.timesteps[place],
            encoder_hidden_states=tokens, pooled_projections=pooled, return_dict=False,
        )[0]  # fmt: skip
        expected = expected + weight * torch.nn.functional.mse_loss(predicted, drawn.noise - latents)
    ours_and_loss = (ours, our_loss(family, ours, job, tmp_path))
    # Behind the last block nothing reads the text any more.
    flow_specs.assert_same_loss_and_gradients(ours_and_loss, (theirs, expected), idle="blocks.1.attn.add_q_proj")


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_it_is_trained_resumed_to_the_bit_and_its_file_opens_in_the_pipeline(method, base, pipeline, tmp_path):
    output = flow_specs.train_broken_and_straight(base, tmp_path, method)
    if method == "lora":
        flow_specs.assert_the_lora_file_changes_the_pipeline(output, pipeline, prompt=PROMPT, guidance_scale=1.0)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"method": "full"}, "cannot be trained by the method full"),
        ({"method": "lora", "formats": ("single-file",)}, "has no format single-file"),
    ],
)
def test_what_it_cannot_be_trained_by_or_exported_to_is_refused_before_anything_is_loaded(
    settings, reason, base, run_folder
):
    job = tiny_job(photo_set(run_folder, "instance", 1), steps=1, **settings)
    with pytest.raises(TrainingFailed, match=reason) as refusal:
        Watched().train(job, run_folder, base)
    assert refusal.value.code == "bad-job"


@pytest.mark.parametrize(
    ("height", "problem"),
    [(SIDE + 2, "no multiple of 4 pixels"), (132, "longer than the 128 pixels that the base has places for")],
)
def test_buckets_must_fit_the_transformer_s_patches_and_their_places(height, problem, base, run_folder):
    job = tiny_job(photo_set(run_folder, "instance", 1, ((SIDE, height),)), steps=1, method="lora", formats=("lora",))
    watched = Watched()
    with pytest.raises(TrainingFailed, match=problem):
        watched.train(job, run_folder, base)
    assert [phase.name for phase in watched.of(flow_specs.wire.PhaseStarted)] == ["load"]


def test_a_picture_as_long_as_the_places_reach_is_drawn(base):
    family = open_base(str(base))
    assert family.longest_side == 128
    denoiser, texts = family.load_denoiser(CPU), family.load_text_encoder(CPU).encode([PROMPT])
    for latents, fits in ((64, True), (66, False)):
        noisy = torch.zeros(1, 4, latents, 8)
        if fits:
            assert family.predict(denoiser, noisy, torch.ones(1), texts.tokens, texts.pooled).shape == noisy.shape
        else:
            with pytest.raises(ValueError, match="pos_embed_max_size"):
                family.predict(denoiser, noisy, torch.ones(1), texts.tokens, texts.pooled)


def test_frozen_weights_in_bfloat16_leave_the_adapter_in_float32(base, run_folder):
    job = tiny_job(
        photo_set(run_folder, "instance", 1), steps=1, method="lora", precision="bf16", formats=("lora",),
        learning_rate=1e-2,
    )  # fmt: skip
    watched = Watched()
    watched.train(job, run_folder, base)
    from safetensors.torch import load_file

    assert "frozen weights in bf16" in {decision.what for decision in watched.of(flow_specs.wire.Decision)}
    tensors = load_file(run_folder / "output/my-dog.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
