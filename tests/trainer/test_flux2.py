"""Flux.2 klein: what it is told, what it learns, and the file that holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from remote_trainer.draws import generator
from remote_trainer.families.detect import open_base
from tests.trainer import flow_specs
from tests.trainer.flow_specs import CPU, fixed_batch, fixed_job, our_latents, our_loss, silent, wrapped_denoiser
from tests.trainer.tiny_flux import build_flux2_base
from tests.trainer.tiny_runs import PROMPT, SIDE


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_flux2_base(tmp_path_factory.mktemp("bases") / "flux2")


@pytest.fixture(scope="module")
def pipeline(base: Path) -> Any:
    from diffusers import Flux2KleinPipeline

    return silent(Flux2KleinPipeline.from_pretrained(base))


@torch.no_grad()
def test_prompts_are_embedded_as_the_pipeline_embeds_them(base, pipeline):
    ours = open_base(str(base)).load_text_encoder(CPU).encode([PROMPT, ""])
    torch.testing.assert_close(ours.tokens, pipeline.encode_prompt([PROMPT, ""])[0])


def test_a_prompt_longer_than_the_window_is_told(base):
    encoder = open_base(str(base)).load_text_encoder(CPU)
    assert encoder.cut_off(PROMPT) == 0
    assert encoder.cut_off("a" * 600) - encoder.cut_off("a" * 590) == 10


def test_our_sampler_draws_what_the_pipeline_draws(base, pipeline):
    noise = torch.randn((1, 16, SIDE // 4, SIDE // 4), generator=generator("sample", "k"))
    theirs = pipeline(
        prompt=PROMPT, height=SIDE, width=SIDE, num_inference_steps=3, guidance_scale=4.0, latents=noise,
        output_type="pt",
    ).images  # fmt: skip
    ours = open_base(str(base)).load_autoencoder(CPU).decode(our_latents(base, 4.0))
    torch.testing.assert_close(ours / 2 + 0.5, theirs, rtol=1e-4, atol=1e-4)


def test_a_base_distilled_to_few_steps_is_not_guided(tmp_path):
    assert open_base(str(build_flux2_base(tmp_path / "base", distilled=True))).guidance == "none"


def test_loss_and_gradients_are_those_of_the_pipeline_s_own_parts(base, pipeline, tmp_path):
    """One step with prior preservation, calculated once more as diffusers' training script does it."""
    family, job = open_base(str(base)), fixed_job(tmp_path)
    ours, theirs = wrapped_denoiser(family), wrapped_denoiser(family)
    expected = torch.zeros(())
    schedule = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    for pixels, prompt, drawn, weight in fixed_batch(job, tmp_path, (16, SIDE // 4, (SIDE + 16) // 4)):
        with torch.no_grad():
            latents = pipeline._encode_vae_image(pixels, generator=None)
            tokens, text_ids = pipeline.encode_prompt(prompt)
        place = 999 - drawn.timesteps  # the scheduler counts from the most noise to the least
        sigma = schedule.sigmas[place].view(-1, 1, 1, 1)
        ids = pipeline._prepare_latent_ids(latents)
        predicted = theirs(
            hidden_states=pipeline._pack_latents((1.0 - sigma) * latents + sigma * drawn.noise),
            timestep=schedule.timesteps[place] / 1000, guidance=None, encoder_hidden_states=tokens, txt_ids=text_ids,
            img_ids=ids, return_dict=False,
        )[0]  # fmt: skip
        predicted = pipeline._unpack_latents_with_ids(predicted, ids)
        expected = expected + weight * torch.nn.functional.mse_loss(predicted, drawn.noise - latents)
    flow_specs.assert_same_loss_and_gradients((ours, our_loss(family, ours, job, tmp_path)), (theirs, expected))


def test_it_is_trained_resumed_to_the_bit_and_its_file_opens_in_the_pipeline(base, pipeline, tmp_path):
    output = flow_specs.train_broken_and_straight(base, tmp_path, "lora")
    flow_specs.assert_the_lora_file_changes_the_pipeline(output, pipeline, prompt=PROMPT, guidance_scale=1.0)


def test_a_dora_loads_back_with_its_lengths(base, tmp_path):
    flow_specs.assert_a_dora_file_loads_back(base, tmp_path / "dora.safetensors")
