"""Single files and kohya LoRAs: exact names, exact tensors, and readers that open them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from remote_trainer import adapters, wire
from remote_trainer.errors import TrainingFailed
from remote_trainer.export import kohya_lora, ldm_names, single_file
from remote_trainer.export.digests import digests
from remote_trainer.export.model_card import license_of, model_card
from remote_trainer.families.detect import open_base
from tests.trainer.tiny_runs import PROMPT, Watched, build_base, photo_set, tiny_job

CPU = torch.device("cpu")
STEM = "my-dog_2"


@pytest.fixture(scope="module")
def open_clip_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predicts v, with a text encoder as SD 2.x has it."""
    folder = build_base(tmp_path_factory.mktemp("bases") / "second", "v_prediction")
    config = folder / "text_encoder/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_act": "gelu"}))
    return folder


@pytest.fixture(scope="module")
def everything(epsilon_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run that hands over every format; each was loaded back and compared before it ended."""
    folder = tmp_path_factory.mktemp("run")
    formats = ("lora", "kohya-lora", "diffusers", "single-file", "ckpt")
    photos = photo_set(folder, "instance", 2)
    job = tiny_job(photos, method="lora", steps=2, lora_alpha=6.0, learning_rate=1e-2, formats=formats)
    Watched().train(job, folder, epsilon_base)
    return folder / wire.OUTPUT_FOLDER


# ---- names -----------------------------------------------------------------------------------------------------------


def true_architecture(kind: str) -> dict[str, torch.Tensor]:
    """Shapes only: the weights are never there."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        if kind == "unet":
            model: Any = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        elif kind == "vae":
            model = AutoencoderKL(
                block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2,
            )  # fmt: skip
        else:
            layers = 12 if kind == "clip" else 23
            model = CLIPTextModel(CLIPTextConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=layers))
        return dict(model.state_dict())


def test_the_true_architectures_have_the_published_numbers_of_keys():
    assert len(ldm_names.unet_tensors(true_architecture("unet"), 2)) == 686
    assert len(ldm_names.autoencoder_tensors(true_architecture("vae"))) == 248
    assert len(ldm_names.text_tensors(true_architecture("clip"), "clip")) == 196
    assert len(ldm_names.text_tensors(true_architecture("open-clip"), "open-clip")) == 280


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("time_embed.0.weight", (1280, 320)),
        ("input_blocks.0.0.weight", (320, 4, 3, 3)),
        ("input_blocks.3.0.op.weight", (320, 320, 3, 3)),
        ("input_blocks.4.0.skip_connection.weight", (640, 320, 1, 1)),
        ("input_blocks.11.0.out_layers.3.weight", (1280, 1280, 3, 3)),
        ("middle_block.1.transformer_blocks.0.attn2.to_k.weight", (1280, 768)),
        ("output_blocks.2.1.conv.weight", (1280, 1280, 3, 3)),
        ("output_blocks.5.2.conv.weight", (1280, 1280, 3, 3)),
        ("output_blocks.11.1.proj_out.weight", (320, 320, 1, 1)),
        ("out.2.bias", (4,)),
    ],
)
def test_a_tensor_of_stable_diffusion_1_stands_where_its_readers_look(name, shape):
    tensors = ldm_names.unet_tensors(true_architecture("unet"), 2)
    assert tuple(tensors[f"model.diffusion_model.{name}"].shape) == shape


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("encoder.down.0.downsample.conv.weight", (128, 128, 3, 3)),
        ("encoder.mid.attn_1.proj_out.weight", (512, 512, 1, 1)),
        ("decoder.up.3.upsample.conv.weight", (512, 512, 3, 3)),
        ("decoder.up.0.block.0.nin_shortcut.weight", (128, 256, 1, 1)),
        ("decoder.norm_out.weight", (128,)),
        ("quant_conv.weight", (8, 8, 1, 1)),
    ],
)
def test_a_tensor_of_the_autoencoder_stands_where_its_readers_look(name, shape):
    tensors = ldm_names.autoencoder_tensors(true_architecture("vae"))
    assert tuple(tensors[f"first_stage_model.{name}"].shape) == shape


def test_the_wrappers_name_is_there_whichever_version_saved_the_text_encoder():
    plain = {name.removeprefix("text_model."): tensor for name, tensor in true_architecture("clip").items()}
    wrapped = {f"text_model.{name}": tensor for name, tensor in plain.items()}
    names = [sorted(ldm_names.text_tensors(tensors, "clip")) for tensors in (plain, wrapped)]
    assert names[0] == names[1]
    assert names[0][0].startswith("cond_stage_model.transformer.text_model.")


def test_a_tensor_without_a_place_is_an_error_and_not_left_out():
    with pytest.raises(ValueError, match="no single file has a place"):
        ldm_names.unet_tensors({"controlnet.weight": torch.zeros(1)}, 2)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_every_format_stands_in_the_output(everything):
    names = {path.name for path in everything.iterdir()}
    assert names == {
        "diffusers", "my-dog.safetensors", "my-dog-kohya.safetensors", f"{STEM}.safetensors", f"{STEM}.ckpt",
        "training.json", "README.md", "manifest.json",
    }  # fmt: skip


def test_both_single_files_hold_the_same_model(everything):
    pickled = torch.load(everything / f"{STEM}.ckpt", weights_only=True)
    assert pickled["global_step"] == 2
    assert digests(pickled["state_dict"]) == digests(load_file(everything / f"{STEM}.safetensors"))


def test_the_single_file_draws_what_the_folder_draws(everything, epsilon_base):
    from diffusers import StableDiffusionPipeline

    folder = StableDiffusionPipeline.from_pretrained(everything / "diffusers")
    file = StableDiffusionPipeline.from_single_file(
        str(everything / f"{STEM}.safetensors"), config=str(epsilon_base), local_files_only=True
    )
    pictures = []
    for pipeline in (folder, file):
        pipeline.scheduler = folder.scheduler
        pipeline.set_progress_bar_config(disable=True)
        seed = torch.Generator().manual_seed(5)
        drawn = pipeline(PROMPT, num_inference_steps=2, height=32, width=32, generator=seed, output_type="pt").images
        pictures.append(torch.as_tensor(drawn))
    assert torch.equal(*pictures)


def test_a_file_for_a_velocity_base_has_its_config_beside_it(open_clip_base, tmp_path):
    job = tiny_job(photo_set(tmp_path, "instance", 1), steps=1, formats=("single-file",))
    Watched().train(job, tmp_path, open_clip_base)
    config = json.loads((tmp_path / "output/my-dog_1.yaml").read_text())["model"]["params"]
    assert config["parameterization"] == "v"
    assert config["cond_stage_config"]["target"].endswith("FrozenOpenCLIPEmbedder")
    names = load_file(tmp_path / "output/my-dog_1.safetensors")
    assert names["cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"].shape == (48, 16)


def test_a_changed_tensor_in_a_single_file_is_a_mismatch(epsilon_base, tmp_path):
    family, path = open_base(str(epsilon_base)), tmp_path / "dog.safetensors"
    tensors = single_file.tensors_of(family, family.load_denoiser(CPU))
    written = digests(tensors)
    name = "first_stage_model.decoder.conv_out.bias"
    save_file(tensors | {name: tensors[name] + 1e-6}, path)
    with pytest.raises(TrainingFailed, match="differs after loading") as failure:
        single_file.verify(family, written, path)
    assert failure.value.code == "export-mismatch"


# ---- kohya -----------------------------------------------------------------------------------------------------------


def test_a_kohya_file_states_its_true_alpha_and_answers_like_the_plain_one(everything, epsilon_base):
    from diffusers import StableDiffusionPipeline

    tensors = load_file(everything / "my-dog-kohya.safetensors")
    alphas = {float(tensor) for name, tensor in tensors.items() if name.endswith(".alpha")}
    assert alphas == {6.0}
    answers = []
    for name in ("my-dog.safetensors", "my-dog-kohya.safetensors"):
        pipeline = StableDiffusionPipeline.from_pretrained(epsilon_base)
        pipeline.load_lora_weights(everything, weight_name=name)
        source = torch.Generator().manual_seed(3)
        noisy, text = torch.randn(1, 4, 16, 16, generator=source), torch.randn(1, 16, 16, generator=source)
        with torch.no_grad():
            answers.append(pipeline.unet(noisy, torch.tensor([500]), encoder_hidden_states=text).sample)
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)


def test_a_kohya_file_says_what_it_is(everything):
    with safe_open(everything / "my-dog-kohya.safetensors", "pt") as file:
        about = file.metadata()
    assert (about["ss_network_dim"], about["ss_network_alpha"]) == ("4", "6")
    assert about["modelspec.trigger_phrase"] == PROMPT
    assert json.loads(about["ss_tag_frequency"]) == {"my-dog": {PROMPT: 2}}
    assert len(about["sshs_model_hash"]) == 64


def test_a_kohya_file_with_another_alpha_is_a_mismatch(epsilon_base, tmp_path):
    family, path = open_base(str(epsilon_base)), tmp_path / "dog.safetensors"
    denoiser = family.load_denoiser(CPU)
    adapters.add_lora(denoiser, 4, 6.0, family.lora_targets, seed=1)
    factors = adapters.lora_tensors(denoiser, 1.0)
    wrong = kohya_lora.kohya_tensors(factors, 4.0)
    kohya_lora.write(wrong, {}, path)
    with pytest.raises(TrainingFailed, match="loads with scale") as failure:
        kohya_lora.verify(family, digests(wrong), digests(factors), 1.5, path)
    assert failure.value.code == "export-mismatch"


# ---- the card --------------------------------------------------------------------------------------------------------


def test_the_card_names_prompt_files_and_pictures_and_no_path(everything, epsilon_base):
    card = (everything / "README.md").read_text()
    assert PROMPT in card
    assert f"`{STEM}.ckpt`" in card
    assert f"| instance: “{PROMPT}” | 2 |" in card
    assert str(epsilon_base.parent) not in card


def test_the_card_names_the_configuration_where_there_is_one(tmp_path, epsilon_base, open_clip_base):
    job = tiny_job(photo_set(tmp_path, "instance", 1), method="full", formats=("single-file",))
    row = f"| `{job.name}_{job.train.steps}.yaml` |"
    assert row in model_card(job, open_base(str(open_clip_base)), job.train.steps, {})
    assert row not in model_card(job, open_base(str(epsilon_base)), job.train.steps, {})


def test_the_license_is_the_one_that_the_bases_card_states(tmp_path, epsilon_base):
    assert license_of(epsilon_base) == ""
    (tmp_path / "README.md").write_text("---\ntags: [x]\nlicense: creativeml-openrail-m\n---\n# Base\nlicense: none\n")
    assert license_of(tmp_path) == "creativeml-openrail-m"
    job = tiny_job(photo_set(tmp_path, "instance", 1))
    of_hub, builtin = replace(job, base="owner/base"), replace(job, base="builtin:tiny")
    assert "License: that of the base" in model_card(of_hub, open_base(str(epsilon_base)), 1, {})
    assert "License: apache-2.0, that of the program" in model_card(builtin, open_base(str(epsilon_base)), 1, {})


def test_equal_weights_make_equal_kohya_files_in_every_process(tmp_path):
    program = (
        "import sys; from pathlib import Path; import torch\n"
        "from remote_trainer.export import kohya_lora\n"
        "about = {f'key{number}': str(number) for number in range(30)}\n"
        "tensors = kohya_lora.kohya_tensors({'a.to_q.lora_A.weight': torch.ones(2, 4), 'a.to_q.lora_B.weight': "
        "torch.ones(4, 2)}, 2.0)\n"
        "kohya_lora.write(tensors, about, Path(sys.argv[1]))"
    )
    files = [tmp_path / name for name in ("one.safetensors", "two.safetensors")]
    for file in files:
        subprocess.run([sys.executable, "-c", program, str(file)], check=True, cwd=Path(__file__).parents[2])
    assert files[0].read_bytes() == files[1].read_bytes()
    with safe_open(files[0], "pt") as opened:
        assert opened.metadata()["key29"] == "29"
        assert opened.get_tensor("lora_unet_a_to_q.lora_down.weight").shape == (2, 4)
