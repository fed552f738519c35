"""What a finished run hands over opens in diffusers and holds what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from remote_trainer import adapters, wire
from remote_trainer.commit import read_committed
from remote_trainer.errors import TrainingFailed
from remote_trainer.export import diffusers_folder, lora_file
from remote_trainer.export.digests import digests
from remote_trainer.families.detect import open_base
from tests.trainer.tiny_runs import PROMPT, Watched, photo_set, tiny_job

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def lora_run(epsilon_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora-run")
    job = tiny_job(
        photo_set(folder, "instance", 2), method="lora", steps=3, lora_alpha=6.0, learning_rate=1e-2,
        formats=("diffusers", "lora"), validation_prompts=(PROMPT, "a red car"),
    )  # fmt: skip
    Watched().train(job, folder, epsilon_base)
    return folder / wire.OUTPUT_FOLDER


def unet_answer(pipeline: Any) -> torch.Tensor:
    source = torch.Generator().manual_seed(3)
    noisy, text = torch.randn(1, 4, 16, 16, generator=source), torch.randn(1, 16, 16, generator=source)
    with torch.no_grad():
        return pipeline.unet(noisy, torch.tensor([500]), encoder_hidden_states=text).sample


def pipeline_from(folder: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(folder)


def test_the_folder_opens_and_draws(lora_run):
    pipeline = pipeline_from(lora_run / "diffusers")
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(PROMPT, num_inference_steps=2, height=32, width=32).images[0]
    assert image.size == (32, 32)


def test_the_lora_file_on_the_base_answers_like_the_fused_folder(lora_run, epsilon_base):
    """Rank 4 with alpha 6: a reader that knows no alpha must get the same picture."""
    adapted, fused = pipeline_from(epsilon_base), pipeline_from(lora_run / "diffusers")
    bare = unet_answer(adapted)
    adapted.load_lora_weights(lora_run, weight_name="my-dog.safetensors")
    torch.testing.assert_close(unet_answer(adapted), unet_answer(fused), rtol=1e-4, atol=1e-5)
    assert (unet_answer(adapted) - bare).abs().max() > 1e-3


def test_the_manifest_names_every_file_and_nothing_else(lora_run):
    manifest = read_committed(lora_run)
    assert manifest is not None
    present = {path.relative_to(lora_run).as_posix() for path in lora_run.rglob("*") if path.is_file()}
    assert present == {entry.path for entry in manifest.files} | {"manifest.json"}
    assert {"my-dog.safetensors", "before-after.png", "training.json", "diffusers/model_index.json"} <= present


def test_everything_but_the_denoiser_is_the_base_byte_for_byte(lora_run, epsilon_base):
    for component in ("vae", "text_encoder", "tokenizer", "scheduler"):
        for path in (epsilon_base / component).iterdir():
            assert (lora_run / "diffusers" / component / path.name).read_bytes() == path.read_bytes()


def test_no_path_of_the_host_is_in_the_export(lora_run, epsilon_base):
    for path in lora_run.rglob("*.json"):
        assert str(epsilon_base.parent) not in path.read_text(), path


def test_the_record_holds_what_was_resolved_and_measured(lora_run):
    record = json.loads((lora_run / "training.json").read_text())
    assert record["settings"]["lora_alpha"] == 6.0
    assert record["settings"]["precision"] == "fp32"
    assert record["settings"]["learning_rate"] == 1e-2
    assert [evaluation["step"] for evaluation in record["evaluations"]] == [0, 3]
    assert {"torch", "diffusers", "peft"} <= record["versions"].keys()


def test_without_the_lora_format_there_is_no_lora_file(epsilon_base, run_folder):
    job = tiny_job(photo_set(run_folder, "instance", 2), method="lora", steps=1)
    Watched().train(job, run_folder, epsilon_base)
    assert not (run_folder / "output/my-dog.safetensors").exists()
    assert (run_folder / "output/diffusers").is_dir()


def test_a_lora_run_may_hand_over_the_lora_file_alone(epsilon_base, run_folder):
    job = tiny_job(photo_set(run_folder, "instance", 2), method="lora", steps=1, formats=("lora",))
    Watched().train(job, run_folder, epsilon_base)
    assert sorted(path.name for path in (run_folder / "output").iterdir()) == [
        "README.md", "manifest.json", "my-dog.safetensors", "training.json"
    ]  # fmt: skip


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_a_changed_tensor_in_the_folder_is_a_mismatch(epsilon_base, tmp_path, component):
    family, folder = open_base(str(epsilon_base)), tmp_path / "exported"
    denoiser = family.load_denoiser(CPU)
    diffusers_folder.write(family, adapters.Trained(denoiser, {}), folder)
    expected = digests(denoiser.state_dict())
    diffusers_folder.verify(family, expected, folder)
    file = next((folder / component).glob("*.safetensors"))
    tensors = load_file(file)
    name = max(tensors)
    tensors[name] = tensors[name] + 1e-6
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(TrainingFailed, match="differs after loading") as failure:
        diffusers_folder.verify(family, expected, folder)
    assert failure.value.code == "export-mismatch"


def test_a_lora_file_that_lost_a_layer_is_a_mismatch(epsilon_base, tmp_path):
    family, path = open_base(str(epsilon_base)), tmp_path / "my-dog.safetensors"
    denoiser = family.load_denoiser(CPU)
    adapters.add_lora(denoiser, 4, 4.0, family.lora_targets, seed=1)
    tensors = adapters.lora_tensors(denoiser, 1.0)
    lora_file.write(family, tensors, path)
    lora_file.verify(family, digests(tensors), path)
    layer = min(tensors).split(".lora_")[0]
    lora_file.write(family, {name: value for name, value in tensors.items() if layer not in name}, path)
    with pytest.raises(TrainingFailed) as failure:
        lora_file.verify(family, digests(tensors), path)
    assert failure.value.code == "export-mismatch"


def test_only_one_set_of_weights_is_copied(epsilon_base, tmp_path):
    import shutil

    base = shutil.copytree(epsilon_base, tmp_path / "base")
    weights = base / "vae/diffusion_pytorch_model.safetensors"
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin", "old.ckpt"):
        shutil.copyfile(weights, base / "vae" / name)
    family = open_base(str(base))
    diffusers_folder.write(family, adapters.Trained(family.load_denoiser(CPU), {}), tmp_path / "exported")
    copied = sorted(path.name for path in (tmp_path / "exported/vae").iterdir())
    assert copied == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_a_new_adapter_changes_no_answer(epsilon_base):
    family = open_base(str(epsilon_base))
    bare, wrapped = family.load_denoiser(CPU), family.load_denoiser(CPU)
    adapters.add_lora(wrapped, 4, 4.0, family.lora_targets, seed=1)
    noisy, text, timestep = torch.randn(1, 4, 16, 16), torch.randn(1, 16, 16), torch.tensor([10])
    answers = [family.predict(model, noisy, timestep, text) for model in (bare, wrapped)]
    assert torch.equal(*answers)


def test_an_adapter_sits_on_every_attention_projection_and_nowhere_else(epsilon_base):
    family = open_base(str(epsilon_base))
    denoiser = family.load_denoiser(CPU)
    projections = {name for name, _ in denoiser.named_modules() if name.endswith(family.lora_targets)}
    adapters.add_lora(denoiser, 4, 4.0, family.lora_targets, seed=1)
    trained = {name.split(".lora_")[0] for name in adapters.trainable(denoiser)}
    assert trained == projections
    assert len(projections) > 0


def test_a_dora_run_yields_a_file_that_answers_like_the_fused_folder(epsilon_base, run_folder):
    job = tiny_job(
        photo_set(run_folder, "instance", 2), method="dora", steps=3, lora_alpha=6.0, learning_rate=1e-2,
        formats=("lora", "diffusers"),
    )  # fmt: skip
    Watched().train(job, run_folder, epsilon_base)
    output = run_folder / wire.OUTPUT_FOLDER
    assert any("lora_magnitude_vector" in name for name in load_file(output / "my-dog.safetensors"))
    adapted, fused = pipeline_from(epsilon_base), pipeline_from(output / "diffusers")
    adapted.load_lora_weights(output, weight_name="my-dog.safetensors")
    torch.testing.assert_close(unet_answer(adapted), unet_answer(fused), rtol=1e-4, atol=1e-5)


def test_a_new_dora_changes_no_answer_and_trains_the_lengths_too(epsilon_base):
    family = open_base(str(epsilon_base))
    bare, wrapped = family.load_denoiser(CPU), family.load_denoiser(CPU)
    adapters.add_lora(wrapped, 4, 4.0, family.lora_targets, seed=1, decomposed=True)
    noisy, text, timestep = torch.randn(1, 4, 16, 16), torch.randn(1, 16, 16), torch.tensor([10])
    answers = [family.predict(model, noisy, timestep, text) for model in (bare, wrapped)]
    torch.testing.assert_close(*answers)
    assert any(name.endswith("lora_magnitude_vector.default.weight") for name in adapters.trainable(wrapped))
