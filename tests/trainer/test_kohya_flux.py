"""Flux.1's adapter in kohya's names: what goes where, and that diffusers finds the same adapter again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from remote_trainer import adapters, wire
from remote_trainer.draws import generator
from remote_trainer.errors import TrainingFailed
from remote_trainer.export import kohya_flux, kohya_lora
from remote_trainer.export.digests import digests
from remote_trainer.families.detect import open_base
from remote_trainer.families.flow_matching import with_unread_weights
from tests.trainer.tiny_flux import build_flux_base
from tests.trainer.tiny_runs import Watched, photo_set, tiny_job


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_flux_base(tmp_path_factory.mktemp("bases") / "flux")


@pytest.fixture
def wide_base(base: Path, tmp_path: Path) -> Path:
    """Configurations of a Flux.1 as wide as the true one, with a block of either kind; its weights are never read."""
    for path in base.rglob("*.json"):
        copy = tmp_path / "wide" / path.relative_to(base)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    config = tmp_path / "wide/transformer/config.json"
    wide = {"attention_head_dim": 128, "num_attention_heads": 24, "axes_dims_rope": [16, 56, 56]}
    config.write_text(json.dumps(json.loads(config.read_text()) | wide))
    return tmp_path / "wide"


def factors_of(base: Path, targets: tuple[str, ...], rank: int = 2) -> dict[str, torch.Tensor]:
    from diffusers import FluxTransformer2DModel

    model: Any = with_unread_weights(FluxTransformer2DModel, base / "transformer").requires_grad_(False)
    adapters.add_lora(model, rank, float(rank), targets, seed=1)
    return {
        name: torch.randn(tensor.shape, generator=generator("factor", name))
        for name, tensor in adapters.lora_tensors(model, 1.0).items()
    }


def test_three_parts_become_one_layer_of_three_times_the_rank_and_alpha():
    factors = {}
    for part in "qkv":
        factors[f"transformer_blocks.3.attn.to_{part}.lora_A.weight"] = torch.randn(2, 6)
        factors[f"transformer_blocks.3.attn.to_{part}.lora_B.weight"] = torch.randn(5, 2)
    written = kohya_flux.kohya_tensors(factors, alpha=1.5)
    stem = "lora_unet_double_blocks_3_img_attn_qkv"
    assert set(written) == {f"{stem}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")}
    down, up = written[f"{stem}.lora_down.weight"], written[f"{stem}.lora_up.weight"]
    assert (down.shape, up.shape, written[f"{stem}.alpha"].item()) == ((6, 6), (15, 6), 4.5)
    together = torch.cat([
        factors[f"transformer_blocks.3.attn.to_{part}.lora_B.weight"]
        @ factors[f"transformer_blocks.3.attn.to_{part}.lora_A.weight"]
        for part in "qkv"
    ])  # fmt: skip
    torch.testing.assert_close(up @ down * 4.5 / 6, together * 1.5 / 2)


@pytest.mark.parametrize("alpha", [2.0, 0.7])
def test_diffusers_finds_the_same_adapter_in_the_file(alpha, wide_base, tmp_path):
    """On every layer that one gets by itself, in blocks of both kinds."""
    family, path = open_base(str(wide_base)), tmp_path / "kohya.safetensors"
    factors = factors_of(wide_base, family.lora_targets)
    written = kohya_flux.kohya_tensors(factors, alpha)
    origin = kohya_lora.Origin("my-dog", "a photo of sks dog", {"a photo of sks dog": 3}, 512, 9, 1e-4, 42)
    kohya_lora.write(written, kohya_flux.metadata(written, 2, alpha, origin), path)
    kohya_flux.verify(family, digests(written), factors, alpha / 2, path)
    with safe_open(path, "pt") as file:
        about = file.metadata()
    assert (about["ss_base_model_version"], about["ss_network_alpha"]) == ("flux1", f"{alpha:g}")

    name = next(each for each in factors if each.endswith("to_q.lora_B.weight"))
    with pytest.raises(TrainingFailed, match="loads with another"):
        kohya_flux.verify(family, digests(written), {**factors, name: -factors[name]}, alpha / 2, path)
    with pytest.raises(TrainingFailed, match="another scale"):
        kohya_flux.verify(family, digests(written), factors, alpha, path)


def test_a_run_hands_over_both_files(base, run_folder):
    """diffusers takes layers of the blocks with one stream for as wide as the true ones, so these are left out here."""
    targets = ("attn.add_q_proj", "attn.to_out.0", "ff.net.2")
    job = tiny_job(
        photo_set(run_folder, "instance", 1), method="lora", steps=2, formats=("lora", "kohya-lora"),
        lora_targets=targets, lora_alpha=6.0, learning_rate=1e-2,
    )  # fmt: skip
    Watched().train(job, run_folder, base)
    names = {name.rpartition(".lora_")[0] for name in load_file(run_folder / "output/my-dog-kohya.safetensors")} - {""}
    assert names == {
        "lora_unet_double_blocks_0_txt_attn_qkv", "lora_unet_double_blocks_0_img_attn_proj",
        "lora_unet_double_blocks_0_img_mlp_2",
    }  # fmt: skip


def test_layers_that_a_format_has_no_place_for_are_refused_before_the_first_step(base, run_folder):
    job = tiny_job(
        photo_set(run_folder, "instance", 1), method="lora", formats=("kohya-lora",), lora_targets=("x_embedder",)
    )
    watched = Watched()
    with pytest.raises(TrainingFailed, match="cannot be exported") as refusal:
        watched.train(job, run_folder, base)
    assert refusal.value.code == "bad-job"
    assert "train" not in {phase.name for phase in watched.of(wire.PhaseStarted)}


def test_a_layer_outside_of_the_blocks_has_no_place():
    factors = {f"x_embedder.lora_{each}.weight": torch.ones(2, 2) for each in "AB"}
    with pytest.raises(TrainingFailed, match="no place for an adapter on x_embedder"):
        kohya_flux.kohya_tensors(factors, 1.0)
