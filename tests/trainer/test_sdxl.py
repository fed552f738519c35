"""Stable Diffusion XL: what it is told, what it learns, and the files that hold it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from remote_trainer import sampling, wire
from remote_trainer.dataset.pictures import Framing, framing_rows, load_framed, load_pixels, training_set
from remote_trainer.denoising import Denoising
from remote_trainer.draws import draw, generator
from remote_trainer.encoded import encode_prompts, encode_sets
from remote_trainer.errors import TrainingFailed
from remote_trainer.export import ldm_names
from remote_trainer.families.detect import open_base
from remote_trainer.micro_batch import MicroBatches
from tests.trainer.tiny_runs import CLASS_PROMPT, PROMPT, SIDE, Watched, final_weights, photo_set, tiny_job
from tests.trainer.tiny_sdxl import PROJECTED, WIDTHS, build_sdxl_base

CPU = torch.device("cpu")
STEM = "my-dog_2"
SIZES = ((SIDE, SIDE), (SIDE, SIDE + 16))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sdxl_base(tmp_path_factory.mktemp("bases") / "sdxl")


@pytest.fixture(scope="module")
def everything(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run that hands over every format; each was loaded back and compared before it ended."""
    folder = tmp_path_factory.mktemp("run")
    formats = ("lora", "kohya-lora", "diffusers", "single-file", "ckpt")
    job = tiny_job(
        photo_set(folder, "instance", 2), method="lora", steps=2, lora_alpha=6.0, learning_rate=1e-2, formats=formats,
        validation_prompts=(PROMPT,), validation_guidance_scale=4.0,
    )  # fmt: skip
    Watched().train(job, folder, base)
    return folder / wire.OUTPUT_FOLDER


def edited(base: Path, folder: Path, file: str, **changes: Any) -> Path:
    """A copy of the base's configurations, without weights, with `changes` in one of them."""
    for path in base.rglob("*.json"):
        copy = folder / path.relative_to(base)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    target = folder / file
    target.write_text(json.dumps(json.loads(target.read_text()) | changes))
    return folder


def pipeline_from(folder: Path) -> Any:
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def unet_answer(unet: Any) -> torch.Tensor:
    source = torch.Generator().manual_seed(3)
    noisy, text = torch.randn(1, 4, 16, 16, generator=source), torch.randn(1, 16, sum(WIDTHS), generator=source)
    added = {
        "text_embeds": torch.randn(1, PROJECTED, generator=source),
        "time_ids": torch.tensor([[48.0, 64.0, 8.0, 0.0, 32.0, 32.0]]),
    }
    with torch.no_grad():
        return unet(noisy, torch.tensor([500]), encoder_hidden_states=text, added_cond_kwargs=added).sample


# ---- which bases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("unet/config.json", {"in_channels": 9}, "takes 9 channels"),
        ("unet/config.json", {"addition_embed_type": None}, "not on text and sizes"),
        ("vae/config.json", {"latents_mean": [0.0] * 4}, "another noise process"),
    ],
)
def test_a_base_that_is_not_quite_sdxl_is_refused(base, tmp_path, file, change, reason):
    with pytest.raises(TrainingFailed, match=reason) as refusal:
        open_base(str(edited(base, tmp_path / "other", file, **change)))
    assert refusal.value.code == "bad-job"


# ---- what it is told -------------------------------------------------------------------------------------------------


def cropped_photo(folder: Path) -> wire.DatasetSpec:
    """48×40 pixels as prepared from a photo of 96×80, trained at 32×40: 8 pixels are cut at the left and the right."""
    spec = photo_set(folder, "instance", 1, ((48, 40),))
    image = dataclasses.replace(spec.images[0], bucket_width=32, bucket_height=40, photo_width=96, photo_height=80)
    return dataclasses.replace(spec, images=(image,))


def test_sizes_are_height_before_width_and_those_of_the_photo_before_it_was_resized(tmp_path):
    job = tiny_job(cropped_photo(tmp_path))
    _, framing = load_framed(training_set(job, tmp_path).instance[0])
    assert framing.values == (80, 96, 0, 8, 40, 32)


def test_a_job_that_does_not_tell_the_original_size_means_the_file_s(tmp_path):
    spec = cropped_photo(tmp_path)
    image = dataclasses.replace(spec.images[0], photo_width=None, photo_height=None)
    job = tiny_job(dataclasses.replace(spec, images=(image,)))
    assert load_framed(training_set(job, tmp_path).instance[0])[1].original == (40, 48)


def test_prompts_are_embedded_as_the_pipeline_embeds_them(base):
    ours = encode_prompts(open_base(str(base)), [PROMPT, ""], CPU, lambda _: None).batch([PROMPT, ""])
    tokens, no_tokens, pooled, not_pooled = pipeline_from(base).encode_prompt(PROMPT)
    assert torch.equal(ours.tokens, torch.cat([tokens, no_tokens]))
    assert ours.pooled is not None
    assert torch.equal(ours.pooled, torch.cat([pooled, not_pooled]))


def test_an_empty_prompt_is_words_too_where_the_base_says_so(tmp_path):
    folder = build_sdxl_base(tmp_path / "base", zeros_for_empty=False)
    ours = open_base(str(folder)).load_text_encoder(CPU).encode([""])
    tokens, _, pooled, _ = pipeline_from(folder).encode_prompt("")
    assert torch.equal(ours.tokens, tokens)
    assert ours.pooled is not None
    assert torch.equal(ours.pooled, pooled)
    assert ours.tokens.abs().max() > 0


def test_our_sampler_draws_what_the_pipeline_draws(base):
    family = open_base(str(base))
    denoising = Denoising(family, family.load_denoiser(CPU), CPU, "fp32")
    encoder = family.load_text_encoder(CPU)
    settings = sampling.SamplerSettings(3, 4.0, SIDE)
    ours = sampling.sample_latents(denoising, encoder.encode([PROMPT]), encoder.encode([""]), [("k",)], settings)
    noise = torch.randn((1, 4, SIDE // 2, SIDE // 2), generator=generator("sample", "k"))
    theirs = pipeline_from(base)(
        PROMPT, height=SIDE, width=SIDE, num_inference_steps=3, guidance_scale=4.0, latents=noise, output_type="latent"
    ).images
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# ---- what it learns --------------------------------------------------------------------------------------------------


def test_loss_and_gradients_are_those_of_the_pipeline_s_own_parts(base, tmp_path):
    """One step with prior preservation, calculated once more as diffusers' training script does it."""
    job = tiny_job(cropped_photo(tmp_path), photo_set(tmp_path, "class", 1), prior_loss_weight=0.5)
    family, pictures = open_base(str(base)), training_set(job, tmp_path)
    denoising = Denoising(family, family.load_denoiser(CPU).requires_grad_(True), CPU, "fp32")
    encoded = encode_sets(family, pictures.sets, job.train.seed, CPU, lambda: False)
    prompts = encode_prompts(family, [PROMPT, CLASS_PROMPT], CPU, lambda _: None)
    ours = MicroBatches(job.train, denoising, encoded, prompts).loss(1, 0)
    torch.autograd.backward(ours)

    from diffusers import DDPMScheduler

    pipeline = pipeline_from(base)
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    unet, theirs = pipeline.unet.requires_grad_(True), torch.zeros(())
    rows = [
        (pictures.instance[0], PROMPT, (80, 96, 0, 8, 40, 32), 1.0),
        (pictures.class_[0], CLASS_PROMPT, (SIDE, SIDE, 0, 0, SIDE, SIDE), 0.5),
    ]
    for index, (picture, prompt, time_ids, weight) in enumerate(rows):
        with torch.no_grad():
            posterior = pipeline.vae.encode(load_pixels(picture)[None]).latent_dist
            tokens, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
        drawn = draw(job.train.seed, 1, 0, index, 1, tuple(posterior.mean.shape[1:]), 1000)
        latents = (posterior.mean + posterior.std * drawn.posterior_noise) * pipeline.vae.config.scaling_factor
        noisy = schedule.add_noise(latents, drawn.noise, drawn.timesteps)
        added = {"text_embeds": pooled, "time_ids": torch.tensor([time_ids])}
        predicted = unet(noisy, drawn.timesteps, encoder_hidden_states=tokens, added_cond_kwargs=added).sample
        theirs = theirs + weight * torch.nn.functional.mse_loss(predicted, drawn.noise)
    theirs.backward()

    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    expected = dict(unet.named_parameters())
    for name, parameter in denoising.model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_loss_on_a_fixed_set_falls(method, base, run_folder):
    job = tiny_job(
        photo_set(run_folder, "instance", 2), method=method, steps=20, batch_size=2,
        learning_rate=1e-2 if method == "full" else 5e-2, formats=("lora",) if method == "lora" else ("diffusers",),
    )  # fmt: skip
    watched = Watched()
    watched.train(job, run_folder, base)
    evaluations = watched.of(wire.Evaluated)
    assert evaluations[-1].mean_loss < 0.95 * evaluations[0].mean_loss


@pytest.mark.parametrize("method", ["full", "lora", "dora"])
def test_resuming_in_the_middle_of_an_epoch_repeats_the_bits(method, base, tmp_path):
    """Photographs in two buckets, and class images that the base makes itself."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"

    def job(folder: Path) -> wire.Job:
        sets = (photo_set(folder, "instance", 3, SIZES), photo_set(folder, "class", 0, generate=1))
        return tiny_job(*sets, method=method, steps=3, checkpoint_every=3, resolution=SIDE)

    undisturbed = Watched().train(job(straight), straight, base)
    assert Watched(stop_after=1).train(job(broken), broken, base).step == 1
    resumed = Watched().train(job(broken), broken, base)
    expected, got = final_weights(straight), final_weights(broken)
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    assert resumed == undisturbed


def test_bfloat16_stays_close_to_float32(base):
    family = open_base(str(base))
    denoiser, text = family.load_denoiser(CPU), family.load_text_encoder(CPU).encode([PROMPT])
    noisy = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    framing = framing_rows([Framing.whole(SIDE, SIDE)], CPU)
    exact, rough = (
        Denoising(family, denoiser, CPU, precision).predict(noisy, torch.tensor([500]), text, framing)
        for precision in ("fp32", "bf16")
    )
    assert not torch.equal(exact, rough)
    assert (exact - rough).norm() < 0.05 * exact.norm()


# ---- files -----------------------------------------------------------------------------------------------------------


def true_architecture() -> dict[str, dict[str, torch.Tensor]]:
    """SDXL 1.0 by its published configurations, narrower text encoders apart. Shapes only: no weight is ever there."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280), transformer_layers_per_block=(1, 2, 10), layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=2048,
            attention_head_dim=(5, 10, 20), use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2,
        )  # fmt: skip
        narrow = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
        first = CLIPTextModel(CLIPTextConfig(num_hidden_layers=12, **narrow))
        second = CLIPTextModelWithProjection(CLIPTextConfig(num_hidden_layers=32, projection_dim=96, **narrow))
    models: dict[str, Any] = {"unet": unet, "vae": vae, "text_encoder": first, "text_encoder_2": second}
    return {name: dict(model.state_dict()) for name, model in models.items()}


@pytest.fixture(scope="module")
def true_names() -> dict[str, dict[str, torch.Tensor]]:
    parts = true_architecture()
    return {
        "unet": ldm_names.unet_tensors(parts["unet"], 2),
        "vae": ldm_names.autoencoder_tensors(parts["vae"]),
        "text_encoder": ldm_names.text_tensors(parts["text_encoder"], "clip", "conditioner.embedders.0."),
        "text_encoder_2": ldm_names.text_tensors(parts["text_encoder_2"], "open-clip", "conditioner.embedders.1."),
    }


def test_the_true_architecture_has_the_published_numbers_of_keys(true_names):
    counts = {part: len(tensors) for part, tensors in true_names.items()}
    assert counts == {"unet": 1680, "vae": 248, "text_encoder": 196, "text_encoder_2": 389}
    assert len({name for tensors in true_names.values() for name in tensors}) == 2513


@pytest.mark.parametrize(
    ("part", "name", "shape"),
    [
        ("unet", "model.diffusion_model.label_emb.0.0.weight", (1280, 2816)),
        ("unet", "model.diffusion_model.input_blocks.6.0.op.weight", (640, 640, 3, 3)),
        ("unet", "model.diffusion_model.input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight", (1280, 2048)),
        ("unet", "model.diffusion_model.middle_block.1.proj_in.weight", (1280, 1280)),
        ("unet", "model.diffusion_model.output_blocks.5.2.conv.weight", (640, 640, 3, 3)),
        ("unet", "model.diffusion_model.output_blocks.8.0.skip_connection.weight", (320, 640, 1, 1)),
        ("text_encoder", "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", (64,)),
        ("text_encoder_2", "conditioner.embedders.1.model.text_projection", (64, 96)),
        ("text_encoder_2", "conditioner.embedders.1.model.positional_embedding", (77, 64)),
        ("text_encoder_2", "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight", (192, 64)),
    ],
)
def test_a_tensor_stands_where_readers_look(true_names, part, name, shape):
    assert tuple(true_names[part][name].shape) == shape


def test_every_format_stands_in_the_output(everything):
    assert {path.name for path in everything.iterdir()} == {
        "diffusers", "my-dog.safetensors", "my-dog-kohya.safetensors", f"{STEM}.safetensors", f"{STEM}.ckpt",
        "before-after.png", "training.json", "README.md", "manifest.json",
    }  # fmt: skip


def test_the_single_file_draws_what_the_folder_draws(everything, base):
    from diffusers import StableDiffusionXLPipeline

    file = StableDiffusionXLPipeline.from_single_file(
        str(everything / f"{STEM}.safetensors"), config=str(base), local_files_only=True
    )
    file.set_progress_bar_config(disable=True)
    pictures = []
    for pipeline in (pipeline_from(everything / "diffusers"), file):
        seed = torch.Generator().manual_seed(5)
        drawn = pipeline(PROMPT, num_inference_steps=2, height=32, width=32, generator=seed, output_type="pt").images
        pictures.append(torch.as_tensor(drawn))
    assert torch.equal(*pictures)


def test_both_lora_files_on_the_base_answer_like_the_fused_folder(everything, base):
    fused, bare = unet_answer(pipeline_from(everything / "diffusers").unet), unet_answer(pipeline_from(base).unet)
    assert (fused - bare).abs().max() > 1e-3
    for name in ("my-dog.safetensors", "my-dog-kohya.safetensors"):
        pipeline = pipeline_from(base)
        pipeline.load_lora_weights(everything, weight_name=name)
        torch.testing.assert_close(unet_answer(pipeline.unet), fused, rtol=1e-4, atol=1e-5)


def test_a_kohya_file_names_layers_by_their_places_and_says_that_it_is_for_sdxl(everything):
    with safe_open(everything / "my-dog-kohya.safetensors", "pt") as file:
        names, about = set(file.keys()), file.metadata()
    assert "lora_unet_middle_block_1_transformer_blocks_1_attn2_to_out_0.lora_up.weight" in names
    assert "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q.alpha" in names
    assert (about["ss_base_model_version"], about["ss_v2"]) == ("sdxl_base_v1-0", "False")
    assert about["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"


def test_a_single_file_that_predicts_velocity_says_so_in_a_marker_and_in_no_config(tmp_path):
    folder = build_sdxl_base(tmp_path / "base", "v_prediction")
    job = tiny_job(photo_set(tmp_path / "run", "instance", 1), steps=1, formats=("single-file",))
    Watched().train(job, tmp_path / "run", folder)
    output = tmp_path / "run" / wire.OUTPUT_FOLDER
    assert "v_pred" in load_file(output / "my-dog_1.safetensors")
    assert not (output / "my-dog_1.yaml").exists()
