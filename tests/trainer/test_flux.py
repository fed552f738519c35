"""Flux.1: what it is told, what it learns, and the file that holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from remote_trainer.draws import generator
from remote_trainer.families.detect import open_base
from tests.trainer import flow_specs
from tests.trainer.flow_specs import CPU, fixed_batch, fixed_job, our_latents, our_loss, silent, wrapped_denoiser
from tests.trainer.tiny_flux import build_flux_base
from tests.trainer.tiny_runs import PROMPT, SIDE


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_flux_base(tmp_path_factory.mktemp("bases") / "flux")


@pytest.fixture(scope="module")
def pipeline(base: Path) -> Any:
    from diffusers import FluxPipeline

    return silent(FluxPipeline.from_pretrained(base))


@torch.no_grad()
def test_prompts_are_embedded_as_the_pipeline_embeds_them(base, pipeline):
    ours = open_base(str(base)).load_text_encoder(CPU).encode([PROMPT])
    tokens, pooled, _ = pipeline.encode_prompt(PROMPT)
    torch.testing.assert_close(ours.tokens, tokens)
    torch.testing.assert_close(ours.pooled, pooled)


def test_our_sampler_draws_what_the_pipeline_draws(base, pipeline):
    noise = torch.randn((1, 16, SIDE // 4, SIDE // 4), generator=generator("sample", "k"))
    theirs = pipeline(
        PROMPT, height=SIDE, width=SIDE, num_inference_steps=3, guidance_scale=4.0,
        latents=noise.flatten(2).transpose(1, 2), output_type="latent",
    ).images  # fmt: skip
    ours = our_latents(base, 4.0).flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_base_that_is_told_no_guidance_is_guided_by_nothing(tmp_path):
    assert open_base(str(build_flux_base(tmp_path / "base", told_guidance=False))).guidance == "none"


def test_what_was_encoded_is_decoded_as_the_pipeline_does(base, pipeline):
    source = torch.Generator().manual_seed(2)
    pixels = torch.rand(1, 3, SIDE, SIDE + 8, generator=source) * 2 - 1
    autoencoder = open_base(str(base)).load_autoencoder(CPU)
    mean, _ = autoencoder.encode(pixels)
    plain = pipeline._unpack_latents(mean.flatten(2).transpose(1, 2), SIDE, SIDE + 8, 2)
    with torch.no_grad():
        latents = plain / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor
        theirs = pipeline.vae.decode(latents).sample
    torch.testing.assert_close(autoencoder.decode(mean), theirs.clamp(-1, 1))


def test_loss_and_gradients_are_those_of_the_pipeline_s_own_parts(base, pipeline, tmp_path):
    """One step with prior preservation, calculated once more as diffusers' training script does it."""
    family, job = open_base(str(base)), fixed_job(tmp_path)
    ours, theirs = wrapped_denoiser(family), wrapped_denoiser(family)
    expected, vae = torch.zeros(()), pipeline.vae
    schedule = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    height, width = SIDE // 2, (SIDE + 16) // 2
    for pixels, prompt, drawn, weight in fixed_batch(job, tmp_path, (16, height // 2, width // 2)):
        with torch.no_grad():
            posterior = vae.encode(pixels).latent_dist
            tokens, pooled, text_ids = pipeline.encode_prompt(prompt)
        spread, noise = (
            pipeline._unpack_latents(each.flatten(2).transpose(1, 2), SIDE, SIDE + 16, 2)
            for each in (drawn.posterior_noise, drawn.noise)
        )
        latents = posterior.mean + posterior.std * spread
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        place = 999 - drawn.timesteps  # the scheduler counts from the most noise to the least
        sigma = schedule.sigmas[place].view(-1, 1, 1, 1)
        packed = pipeline._pack_latents((1.0 - sigma) * latents + sigma * noise, 1, 4, height, width)
        predicted = theirs(
            hidden_states=packed, timestep=schedule.timesteps[place] / 1000, guidance=torch.tensor([1.0]),
            pooled_projections=pooled, encoder_hidden_states=tokens, txt_ids=text_ids,
            img_ids=pipeline._prepare_latent_image_ids(1, height // 2, width // 2, CPU, torch.float32),
            return_dict=False,
        )[0]  # fmt: skip
        predicted = pipeline._unpack_latents(predicted, SIDE, SIDE + 16, 2)
        expected = expected + weight * torch.nn.functional.mse_loss(predicted, noise - latents)
    flow_specs.assert_same_loss_and_gradients((ours, our_loss(family, ours, job, tmp_path)), (theirs, expected))


def test_it_is_trained_resumed_to_the_bit_and_its_file_opens_in_the_pipeline(base, pipeline, tmp_path):
    output = flow_specs.train_broken_and_straight(base, tmp_path, "lora")
    flow_specs.assert_the_lora_file_changes_the_pipeline(output, pipeline, prompt=PROMPT)


def test_a_dora_loads_back_with_its_lengths(base, tmp_path):
    flow_specs.assert_a_dora_file_loads_back(base, tmp_path / "dora.safetensors")
