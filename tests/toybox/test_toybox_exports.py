"""The base is a Stable Diffusion like any other: every format that the trainer writes can be made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from remote_trainer import wire
from remote_trainer.bases import shipped
from tests.trainer.tiny_runs import Watched, photo_set, tiny_job


@pytest.mark.parametrize(
    ("method", "formats", "files"),
    [
        ("full", ("diffusers", "single-file", "ckpt"), ("diffusers/unet", "my-dog_1.safetensors", "my-dog_1.ckpt")),
        ("lora", ("lora", "kohya-lora"), ("my-dog.safetensors", "my-dog-kohya.safetensors")),
    ],
)  # fmt: skip
def test_what_is_trained_on_it_is_exported_and_verified(
    tmp_path: Path, method: wire.Method, formats: tuple[wire.ExportFormat, ...], files: tuple[str, ...]
) -> None:
    photos = photo_set(tmp_path, "instance", 1, ((64, 64),))
    job = tiny_job(photos, formats=formats, method=method, steps=1, learning_rate=1e-4)
    assert Watched().train(job, tmp_path, shipped.folder_of("toybox")).manifest_sha256 is not None
    assert [name for name in files if not (tmp_path / "output" / name).exists()] == []
    assert not list((tmp_path / "output").glob("*.yaml")), "the original code builds 48, 96, 112 channels in no way"
