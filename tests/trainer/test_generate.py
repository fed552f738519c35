"""Pictures on request: from an adapter and from a whole model, with settings that other programs read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from orchestrator.hosted.output import as_diffusers_names
from orchestrator.hosted.safetensors_file import copy_renamed
from remote_trainer import wire
from remote_trainer.errors import TrainingFailed
from remote_trainer.generate import generate
from remote_trainer.wire import PictureJob
from tests.fakes.weights import safetensors_bytes
from tests.trainer.tiny_runs import build_base

SIDE = 32


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of rank 2 that changes every picture, as diffusers saves one."""
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    path = tmp_path_factory.mktemp("lora") / "bot.safetensors"
    path.write_bytes(safetensors_bytes({f"{layer}.lora_A.weight": (2, 32), f"{layer}.lora_B.weight": (32, 2)}))
    return path


@pytest.fixture
def job(epsilon_base: Path, trained: Path) -> PictureJob:
    return PictureJob("bot", str(epsilon_base), str(trained), "lora", "a dog", steps=2, width=SIDE, height=SIDE)


def drawn(job: PictureJob, folder: Path) -> list[str]:
    events = list[wire.Event]()
    generate(job, folder / "work", folder / "out", events.append)
    return [event.file.path for event in events if isinstance(event, wire.SampleMade)]


def pixels(path: Path) -> bytes:
    return Image.open(path).convert("RGB").tobytes()


def test_four_pictures_at_seeds_in_a_row_and_a_square_grid(job: PictureJob, tmp_path: Path) -> None:
    assert drawn(job, tmp_path) == ["42.png", "43.png", "44.png", "45.png", "grid.png"]
    width, height = Image.open(tmp_path / "out" / "grid.png").size
    assert width > 2 * SIDE
    assert height > 2 * SIDE
    assert len({pixels(tmp_path / "out" / f"{seed}.png") for seed in range(42, 46)}) == 4


def test_a_picture_can_be_made_again_by_its_seed(job: PictureJob, tmp_path: Path) -> None:
    drawn(replace(job, count=2), tmp_path / "first")
    drawn(replace(job, count=1, seed=43), tmp_path / "second")
    assert pixels(tmp_path / "first" / "out" / "43.png") == pixels(tmp_path / "second" / "out" / "43.png")


def test_with_the_base_beside_it_the_difference_is_the_model_alone(job: PictureJob, tmp_path: Path) -> None:
    harmless = tmp_path / "harmless.safetensors"
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    content = safetensors_bytes({f"{layer}.lora_A.weight": (1, 32), f"{layer}.lora_B.weight": (32, 1)})
    harmless.write_bytes(content[:-256] + bytes(256))  # B = 0
    drawn(replace(job, compare=True, count=1), tmp_path / "bot")
    drawn(replace(job, compare=True, count=1, model=str(harmless)), tmp_path / "harmless")
    assert pixels(tmp_path / "bot/out/42.png") != pixels(tmp_path / "bot/out/42-base.png")
    assert pixels(tmp_path / "harmless/out/42.png") == pixels(tmp_path / "harmless/out/42-base.png")


def test_a_picture_carries_its_settings_as_automatic1111_reads_them(job: PictureJob, tmp_path: Path) -> None:
    drawn(replace(job, count=1, negative="a cat", guidance=3.0, sampler="euler-a"), tmp_path)
    assert Image.open(tmp_path / "out" / "42.png").info["parameters"].splitlines() == [
        "a dog",
        "Negative prompt: a cat",
        "Steps: 2, Sampler: Euler a, CFG scale: 3.0, Seed: 42, Size: 32x32, Model: bot, Version: cloudbooth",
    ]


def test_a_whole_model_is_opened_by_itself(job: PictureJob, tmp_path: Path) -> None:
    whole = build_base(tmp_path / "whole", "epsilon")
    job = replace(job, base="/no/base", kind="diffusers", model=str(whole), count=1)
    assert drawn(job, tmp_path) == ["42.png", "grid.png"]


def test_a_lora_that_a_hosted_trainer_named_the_older_way_is_opened(job: PictureJob, tmp_path: Path) -> None:
    given, renamed = tmp_path / "given.safetensors", tmp_path / "renamed.safetensors"
    processor = "mid_block.attentions.0.transformer_blocks.0.attn1.processor"
    shapes = {f"{processor}.to_{what}_lora.down.weight": (2, 32) for what in ("q", "out")}
    given.write_bytes(safetensors_bytes(shapes | {name.replace("down", "up"): (32, 2) for name in shapes}))
    copy_renamed(given, renamed, as_diffusers_names)
    drawn(replace(job, compare=True, count=1, model=str(renamed)), tmp_path)
    assert pixels(tmp_path / "out/42.png") != pixels(tmp_path / "out/42-base.png")


def test_a_lora_of_another_base_is_an_error_that_says_so(job: PictureJob, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    foreign.write_bytes(safetensors_bytes({f"{layer}.lora_A.weight": (2, 640), f"{layer}.lora_B.weight": (640, 2)}))
    with pytest.raises(TrainingFailed, match="does not fit onto"):
        drawn(replace(job, model=str(foreign)), tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="wants a machine without a GPU")
def test_a_machine_without_a_gpu_draws_only_where_that_was_allowed(job: PictureJob, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="no GPU") as caught:
        drawn(replace(job, allow_cpu=False), tmp_path)
    assert "--where here" in caught.value.hint, "a flag that there is"
