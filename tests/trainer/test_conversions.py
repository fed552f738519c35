"""A model in formats that its run did not export: each answers as the model does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from remote_trainer import wire
from remote_trainer.commit import read_committed
from remote_trainer.errors import TrainingFailed
from remote_trainer.export.convert import convert
from tests.trainer.tiny_runs import Watched, photo_set, tiny_job


class Run(NamedTuple):
    """Done: rank 4 with alpha 6, so that a scale that gets lost shows."""

    job: wire.Job
    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / wire.OUTPUT_FOLDER

    def converted(self, source: Path, kind: wire.SourceKind, *formats: wire.ExportFormat) -> Path:
        """Made anew in a folder of its own."""
        out = self.folder / "-".join((kind, *formats))
        job = replace(self.job, formats=formats)
        manifest = convert(wire.Conversion(job, str(source), kind, step=2), self.folder / "work", out, lambda _: None)
        assert read_committed(out) == manifest
        return out


@pytest.fixture(scope="module")
def run(epsilon_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    job = tiny_job(
        photo_set(folder, "instance", 2), method="lora", steps=2, lora_alpha=6.0, learning_rate=1e-2,
        formats=("diffusers", "lora"),
    )  # fmt: skip
    Watched().train(job, folder, epsilon_base)
    return Run(replace(job, base=str(epsilon_base)), folder)


def answer(pipeline: Any) -> torch.Tensor:
    source = torch.Generator().manual_seed(3)
    noisy, text = torch.randn(1, 4, 16, 16, generator=source), torch.randn(1, 16, 16, generator=source)
    with torch.no_grad():
        return pipeline.unet(noisy, torch.tensor([500]), encoder_hidden_states=text).sample


def fused(folder: Path) -> torch.Tensor:
    return answer(StableDiffusionPipeline.from_pretrained(folder))


def adapted(base: str, file: Path) -> torch.Tensor:
    pipeline = StableDiffusionPipeline.from_pretrained(base)
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
    return answer(pipeline)


def test_a_lora_becomes_kohyas_and_a_whole_model(run: Run) -> None:
    out = run.converted(run.output / "my-dog.safetensors", "lora", "kohya-lora", "diffusers", "single-file")
    wanted = fused(run.output / "diffusers")
    torch.testing.assert_close(fused(out / "diffusers"), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(adapted(run.job.base, out / "my-dog-kohya.safetensors"), wanted, rtol=1e-4, atol=1e-5)
    assert (out / "my-dog_2.safetensors").is_file(), "named by its steps, as a run names it"


def test_the_scale_that_a_file_states_is_taken_over(run: Run) -> None:
    """kohya's file states alpha; the other format has no place for one."""
    kohya = run.converted(run.output / "my-dog.safetensors", "lora", "kohya-lora") / "my-dog-kohya.safetensors"
    tensors = load_file(kohya)
    halved = kohya.with_name("halved.safetensors")
    save_file({name: value / 2 if name.endswith(".alpha") else value for name, value in tensors.items()}, halved)
    out = run.converted(halved, "lora", "lora")
    torch.testing.assert_close(
        adapted(run.job.base, out / "my-dog.safetensors"), adapted(run.job.base, halved), rtol=1e-4, atol=1e-5
    )


def test_a_checkpoint_yields_the_bytes_that_its_run_would_have_exported(run: Run) -> None:
    out = run.converted(run.folder / wire.checkpoint_folder(2), "checkpoint", "lora")
    assert (out / "my-dog.safetensors").read_bytes() == (run.output / "my-dog.safetensors").read_bytes()


def test_a_whole_model_becomes_a_single_file_and_a_folder_again(run: Run) -> None:
    single = run.converted(run.output / "diffusers", "diffusers", "single-file", "ckpt") / "my-dog_2.safetensors"
    out = run.converted(single, "single-file", "diffusers")
    torch.testing.assert_close(fused(out / "diffusers"), fused(run.output / "diffusers"), rtol=1e-5, atol=1e-6)


def test_an_adapter_is_nothing_that_a_whole_model_has(run: Run) -> None:
    with pytest.raises(TrainingFailed, match="has no format lora"):
        run.converted(run.output / "diffusers", "diffusers", "lora")


def test_a_torn_checkpoint_is_refused_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="is no whole checkpoint"):
        run.converted(tmp_path, "checkpoint", "diffusers")
    assert not (run.folder / "checkpoint-diffusers").exists()
