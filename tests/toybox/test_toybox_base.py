from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import captions
import measure
import world
from orchestrator.base_model import LocalFolder, inspect_base, is_builtin
from orchestrator.code_bundle import trainer_code
from remote_trainer.bases import shipped
from remote_trainer.bases.resolve import resolve_base
from remote_trainer.errors import TrainingFailed
from remote_trainer.families.detect import open_base
from remote_trainer.families.latent_diffusion import parameters_about


@pytest.fixture(scope="module")
def base() -> Path:
    return shipped.folder_of("toybox")


# ---- what is shipped -----------------------------------------------------------------------------------------------


def test_its_weights_are_small(base: Path) -> None:
    assert sum(file.stat().st_size for file in base.rglob("*") if file.is_file()) < 12e6


def test_laptop_and_trainer_mean_the_same_folder(base: Path) -> None:
    seen = inspect_base("builtin:toybox")
    assert isinstance(seen, LocalFolder)
    assert is_builtin(seen)
    assert seen.path == base
    assert seen.content_sha256 == shipped.content_sha256(base)
    assert resolve_base("builtin:toybox", Path("/nowhere")) == str(base)


def test_the_code_that_travels_to_a_machine_leaves_its_weights_behind() -> None:
    assert len(trainer_code().tar) < 1e6


def test_weights_that_were_changed_are_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(base, tmp_path / "toybox")
    shutil.copy(shipped.WEIGHTS / "toybox.sha256", tmp_path)
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
    assert shipped.folder_of("toybox") == tmp_path / "toybox"
    with (tmp_path / "toybox/unet/config.json").open("a") as config:
        config.write(" ")
    with pytest.raises(TrainingFailed, match="not what was released"):
        shipped.folder_of("toybox")


def test_the_text_encoders_file_has_the_names_that_every_reader_knows(base: Path) -> None:
    from safetensors import safe_open

    with safe_open(base / "text_encoder/model.safetensors", "pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # noqa: SIM118  # it is no mapping


def test_it_reads_as_many_tokens_as_any_stable_diffusion(base: Path) -> None:
    assert json.loads((base / "text_encoder/config.json").read_text())["max_position_embeddings"] == 77


def test_its_parameters_are_counted_though_each_takes_two_bytes(base: Path) -> None:
    assert open_base(str(base)).denoiser_parameters() == 4_521_924


def test_a_file_that_cannot_be_read_is_counted_by_its_size(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 400)
    assert parameters_about(tmp_path) == 100


# ---- what it knows -------------------------------------------------------------------------------------------------


def test_every_word_of_the_world_is_one_token(base: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    assert [word for word in world.words() if len(tokenizer(word, add_special_tokens=False).input_ids) != 1] == []


def test_its_text_encoder_keeps_words_apart(base: Path) -> None:
    encoder = open_base(str(base)).load_text_encoder(torch.device("cpu"))
    prompts = ["a photo of a robot", "a photo of a duck", "a photo of a red robot", "a photo of sks robot"]
    last = encoder.encode([*prompts, "a photo of zwx robot"]).tokens[:, -1]
    distances = torch.cdist(last, last).square() / captions.WIDTH
    assert distances[~torch.eye(5, dtype=torch.bool)].min() > 0.1


def test_its_autoencoder_keeps_the_colors_of_a_subject_it_never_saw(base: Path) -> None:
    things_db, _, subject = measure.kept_by_autoencoder(base, count=18)
    assert things_db > 26.0
    assert subject.value >= 0.9


def test_prompts_steer_it(base: Path) -> None:
    asked = [(kind, world.COLORS[number % 8], world.BACKGROUNDS[number % 6]) for number, kind in enumerate(world.KINDS)]
    prompts = [
        world.prompt(f"{'an' if color[0] in 'aeiou' else 'a'} {color} {kind}", place) for kind, color, place in asked
    ]
    verdicts = measure.judge.judged(measure.pictures(base, prompts))
    right = np.array(
        [
            (seen.kind == kind, seen.color == color, seen.background == place)
            for seen, (kind, color, place) in zip(verdicts, asked, strict=True)
        ]
    )
    assert (right.mean(0) >= 0.75).all(), f"kind, color and place were right in {right.mean(0)}"
