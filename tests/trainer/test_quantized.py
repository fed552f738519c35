"""Frozen weights in few bits: how near they stay, and that gradients pass through them."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from remote_trainer import adapters
from remote_trainer.errors import TrainingFailed
from remote_trainer.families.detect import open_base
from remote_trainer.quantized import Bits, QuantizedLinear, pack, quantize_blocks, unpack
from tests.trainer.tiny_flux import build_flux_base
from tests.trainer.tiny_runs import Watched, photo_set, tiny_job

CPU = torch.device("cpu")


def layer(seed: int = 1) -> nn.Linear:
    linear = nn.Linear(128, 64)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(64, 128, generator=torch.Generator().manual_seed(seed)) * 0.02)
    return linear.requires_grad_(False)


@pytest.mark.parametrize(("bits", "bytes_each", "error"), [("int8", 1.04, 0.01), ("nf4", 0.57, 0.11)])
def test_it_takes_little_memory_and_stays_near(bits: Bits, bytes_each: float, error: float):
    weight = layer().weight
    codes, scales = pack(weight, bits)
    stored = codes.numel() * codes.element_size() + scales.numel() * scales.element_size()
    assert stored / weight.numel() <= bytes_each
    again = unpack(codes, scales, bits, (64, 128))
    assert ((again - weight).norm() / weight.norm()).item() < error


def test_nf4_picks_the_nearest_of_its_sixteen_levels():
    weight = torch.linspace(-1.0, 1.0, 64).reshape(1, 64)
    again = unpack(*pack(weight, "nf4"), "nf4", (1, 64))
    assert len(again.unique()) == 16
    assert again[0, 0] == -1.0
    assert again[0, -1] == 1.0
    distances = (weight[0, :, None] - again.unique()[None, :]).abs()
    torch.testing.assert_close((again - weight).abs()[0], distances.min(dim=1).values)


@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_a_quantized_layer_answers_and_passes_gradients_like_a_plain_one_of_its_weights(bits: Bits):
    linear = layer()
    quantized = QuantizedLinear(linear, bits, CPU)
    plain = nn.Linear(128, 64).requires_grad_(False)
    plain.weight.copy_(quantized.weight)
    plain.bias.copy_(linear.bias)
    inputs = [torch.randn(3, 5, 128, generator=torch.Generator().manual_seed(2)).requires_grad_() for _ in range(2)]
    answers = [model(x) for model, x in zip((quantized, plain), inputs, strict=True)]
    torch.testing.assert_close(*answers)
    for answer in answers:
        answer.square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)


def test_only_blocks_are_quantized_and_an_adapter_fits_on_them(tmp_path):
    family = open_base(str(build_flux_base(tmp_path / "base")))
    denoiser = family.load_denoiser(CPU, "nf4")
    kinds = {name: type(module) for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)}
    assert {kind for name, kind in kinds.items() if "blocks." in name} == {QuantizedLinear}
    assert {kind for name, kind in kinds.items() if "blocks." not in name} == {nn.Linear}
    assert quantize_blocks(denoiser, "nf4", CPU) == 0
    adapters.add_lora(denoiser, 2, 2.0, family.lora_targets, seed=1)
    assert {parameter.dtype for parameter in adapters.trainable(denoiser).values()} == {torch.float32}


def test_a_flux_is_trained_on_a_quantized_base_and_resumed_to_the_bit(tmp_path):
    base = build_flux_base(tmp_path / "base")

    def job(folder):
        return tiny_job(
            photo_set(folder, "instance", 2), method="lora", steps=3, formats=("lora",), base_precision="nf4",
            learning_rate=1e-2,
        )  # fmt: skip

    straight, broken = tmp_path / "straight", tmp_path / "broken"
    undisturbed = Watched().train(job(straight), straight, base)
    assert Watched(stop_after=1).train(job(broken), broken, base).step == 1
    assert Watched().train(job(broken), broken, base) == undisturbed
    tensors = load_file(straight / "output/my-dog.safetensors")
    assert all(t.dtype == torch.float32 for t in tensors.values())


def test_a_small_base_is_kept_as_it_is(epsilon_base, run_folder):
    job = tiny_job(photo_set(run_folder, "instance", 1), method="lora", formats=("lora",), base_precision="nf4")
    with pytest.raises(TrainingFailed, match="cannot be kept in nf4"):
        Watched().train(job, run_folder, epsilon_base)


# ---- which layers get an adapter -------------------------------------------------------------------------------------


def test_named_layers_alone_get_an_adapter(epsilon_base, run_folder):
    job = tiny_job(
        photo_set(run_folder, "instance", 1), method="lora", steps=1, formats=("lora", "kohya-lora"),
        lora_targets=("to_v", "ff.net.2"),
    )  # fmt: skip
    Watched().train(job, run_folder, epsilon_base)
    names = {name.rpartition(".lora")[0] for name in load_file(run_folder / "output/my-dog.safetensors")}
    assert names
    assert {name for name in names if not name.endswith((".to_v", ".ff.net.2"))} == set()
    assert any(name.endswith(".ff.net.2") for name in names)


@pytest.mark.parametrize(
    ("target", "reason"), [("to_query", "means no layer"), ("conv1", "means other layers than linear ones")]
)
def test_a_target_that_means_nothing_or_too_much_is_named(target, reason, epsilon_base, run_folder):
    job = tiny_job(photo_set(run_folder, "instance", 1), method="lora", formats=("lora",), lora_targets=(target,))
    with pytest.raises(TrainingFailed, match=reason) as refusal:
        Watched().train(job, run_folder, epsilon_base)
    assert "to_q" in (refusal.value.hint or "")
