"""The `.yaml` beside a single file: what it says is what the tensors and the base show, or the export fails."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from remote_trainer import adapters
from remote_trainer.errors import TrainingFailed
from remote_trainer.export import ldm_names, original_config, output, single_file
from remote_trainer.export.digests import digests
from remote_trainer.export.original_config import Described, Shapes
from remote_trainer.families.api import SingleFileLayout, TextPart
from remote_trainer.families.detect import open_base
from tests.trainer.tiny_runs import build_base, photo_set, tiny_job

CPU = torch.device("cpu")
PUBLISHED: dict[str, Any] = {
    "model": {
        "params": {
            "parameterization": "v", "linear_start": 0.00085, "linear_end": 0.0120, "timesteps": 1000,
            "scale_factor": 0.18215,
            "unet_config": {
                "params": {
                    "in_channels": 4, "out_channels": 4, "model_channels": 320, "attention_resolutions": [4, 2, 1],
                    "num_res_blocks": 2, "channel_mult": [1, 2, 4, 4], "num_head_channels": 64,
                    "use_linear_in_transformer": True, "transformer_depth": 1, "context_dim": 1024,
                },
            },
            "first_stage_config": {
                "params": {"ddconfig": {"z_channels": 4, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}},
            },
            "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder"},
        },
    },
}  # fmt: skip
"""Of Stability's `v2-inference-v.yaml`, what makes the model."""


@pytest.fixture(scope="module")
def second() -> tuple[SingleFileLayout, Shapes]:
    """Stable Diffusion 2.1: its numbers, and the shapes of its tensors without their weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet: dict[str, Any] = {
        "sample_size": 96, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "cross_attention_dim": 1024,
        "block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": [5, 10, 20, 20],
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "use_linear_projection": True,
    }  # fmt: skip
    autoencoder: dict[str, Any] = {
        "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4,
    }  # fmt: skip
    with torch.device("meta"):
        denoiser = UNet2DConditionModel(**unet).state_dict()
        vae = AutoencoderKL(
            **autoencoder, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4
        ).state_dict()
    tensors = {**ldm_names.unet_tensors(denoiser, 2), **ldm_names.autoencoder_tensors(vae)}
    text = {"cond_stage_model.model.transformer.resblocks.0.ln_1.weight": (1024,)}
    layout = SingleFileLayout(
        architecture="sd-2",
        texts=(TextPart("text_encoder", "open-clip", "cond_stage_model."),),
        prediction="v_prediction",
        unet=unet,
        autoencoder=autoencoder,
        scheduler={"beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000},
    )
    return layout, {name: tuple(tensor.shape) for name, tensor in tensors.items()} | text


def test_the_published_file_and_ours_say_what_the_tensors_of_stable_diffusion_2_show(second):
    layout, shapes = second
    shown = original_config.shown_by(layout, shapes)
    ours = yaml.safe_load(original_config.config_text(layout))
    assert original_config.said_by(PUBLISHED) == shown
    assert original_config.said_by(ours) == shown
    assert shown.heads == (5, 10, 20)
    assert original_config.for_diffusers(layout)


def edited(*path: str, to: Any) -> Described:
    config = copy.deepcopy(PUBLISHED)
    place = config["model"]["params"]
    for key in path[:-1]:
        place = place[key]
    assert path[-1] in place
    place[path[-1]] = to
    return original_config.said_by(config)


UNET, DDCONFIG = ("unet_config", "params"), ("first_stage_config", "params", "ddconfig")


@pytest.mark.parametrize(
    ("said", "part"),
    [
        (lambda: edited("parameterization", to="eps"), "parameterization eps in place of v"),
        (lambda: edited("linear_end", to=0.02), "noise"),
        (lambda: edited("scale_factor", to=0.13025), "latent scale"),
        (lambda: edited("cond_stage_config", "target", to="ldm.FrozenCLIPEmbedder"), "conditioner FrozenCLIPEmbedder"),
        (lambda: edited(*UNET, "in_channels", to=9), "channels"),
        (lambda: edited(*UNET, "model_channels", to=256), "width 256 in place of 320"),
        (lambda: edited(*UNET, "context_dim", to=768), "context dim 768 in place of 1024"),
        (lambda: edited(*UNET, "channel_mult", to=[1, 2, 4]), "blocks"),
        (lambda: edited(*UNET, "num_res_blocks", to=3), "blocks"),
        (lambda: edited(*UNET, "attention_resolutions", to=[4, 2]), "blocks"),
        (lambda: edited(*UNET, "transformer_depth", to=2), "blocks"),
        (lambda: edited(*UNET, "num_head_channels", to=40), "heads"),
        (lambda: edited(*UNET, "use_linear_in_transformer", to=False), "linear"),
        (lambda: edited(*DDCONFIG, "z_channels", to=16), "latent channels"),
        (lambda: edited(*DDCONFIG, "ch_mult", to=[1, 2, 4]), "autoencoder"),
    ],
)
def test_a_file_that_says_otherwise_disagrees(second, said: Callable[[], Described], part: str):
    assert original_config.disagreement(said(), original_config.shown_by(*second)).startswith(part)


def test_a_number_that_yaml_reads_as_a_text_is_no_number():
    with pytest.raises(TypeError, match="'1e-05' is no number"):
        edited("linear_start", to=yaml.safe_load("1e-05"))


@pytest.fixture(scope="module")
def exported(velocity_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Callable[[], None], Path]:
    """What verifies the single file of an untrained model, as a run does, and its `.yaml`."""
    folder = tmp_path_factory.mktemp("exported")
    family = open_base(str(velocity_base))
    job = tiny_job(photo_set(folder, "instance", 1), steps=1, formats=("single-file",))
    (verify,) = output.write_models(job, family, adapters.Trained(family.load_denoiser(CPU), {}), 1, folder)
    return verify, folder / "my-dog_1.yaml"


@pytest.mark.parametrize(
    ("rewrite", "problem"),
    [
        (lambda text: text.replace('"v"', '"eps"'), "does not say what the model is: parameterization eps"),
        (lambda text: text.replace("unet_config", "network_config"), "cannot be read back"),
        (lambda _: "model: [", "cannot be read back"),
    ],
)
def test_an_export_whose_file_says_otherwise_is_a_mismatch(exported, rewrite, problem):
    verify, config = exported
    written = config.read_text()
    config.write_text(rewrite(written))
    with pytest.raises(TrainingFailed, match=problem) as failure:
        verify()
    config.write_text(written)
    assert failure.value.code == "export-mismatch"


@pytest.fixture
def groups_of_32(tmp_path: Path) -> Path:
    """A base whose normalizations have the original number of groups, so that diffusers can build it by the file."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    folder = build_base(tmp_path / "base", "v_prediction")
    for kind, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")):
        settings = json.loads((folder / part / "config.json").read_text())
        settings |= {"norm_num_groups": 32, "block_out_channels": [32, 64] if part == "unet" else [32, 32]}
        kind.from_config(settings).save_pretrained(folder / part)
    return folder


def test_diffusers_builds_by_the_file_what_the_file_describes(groups_of_32, tmp_path):
    family = open_base(str(groups_of_32))
    assert original_config.for_diffusers(family.single_file)
    tensors = single_file.tensors_of(family, family.load_denoiser(CPU))
    model, config = tmp_path / "dog.safetensors", tmp_path / "dog.yaml"
    single_file.write(tensors, model, 1)
    original_config.write(family.single_file, config)
    single_file.verify(family, digests(tensors), model, config)
    said = json.loads(config.read_text())
    said["model"]["params"]["unet_config"]["params"]["num_classes"] = 3  # which only diffusers looks at
    config.write_text(json.dumps(said))
    original_config.verify(family.single_file, digests(tensors), config)
    with pytest.raises((TrainingFailed, ValueError, NotImplementedError)):  # diffusers' words change with its version
        single_file.verify(family, digests(tensors), model, config)


def test_a_base_of_other_groups_is_opened_by_its_own_configuration(velocity_base):
    assert not original_config.for_diffusers(open_base(str(velocity_base)).single_file)
