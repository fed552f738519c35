"""What the laptop finds out about a base that is one file, before anybody pays for a machine."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.base_model import inspect_base, job_base, pipeline_name, upload_bytes
from orchestrator.errors import UsageError
from orchestrator.single_file_base import LinkedFile, LocalFile, pipeline_of
from tests.fakes.file_server import FileServer, running_file_server

SD1 = ("model.diffusion_model.out.2.bias", "first_stage_model.x", "cond_stage_model.transformer.text_model.x")
SD2 = ("model.diffusion_model.out.2.bias", "first_stage_model.x", "cond_stage_model.model.ln_final.bias")
SDXL = (
    "model.diffusion_model.out.2.bias", "first_stage_model.x", "conditioner.embedders.0.transformer.text_model.x",
    "conditioner.embedders.1.model.ln_final.bias",
)  # fmt: skip
REFINER = ("model.diffusion_model.out.2.bias", "first_stage_model.x", "conditioner.embedders.0.model.ln_final.bias")


def safetensors(names: tuple[str, ...]) -> bytes:
    header = {name: {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]} for name in names}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(2)


def refusal(base: str) -> str:
    with pytest.raises(UsageError) as caught:
        inspect_base(base)
    return f"{caught.value.message}\n\nhint: {caught.value.hint}\n"


@pytest.fixture
def site() -> Iterator[FileServer]:
    with running_file_server(FileServer({"model.safetensors": safetensors(SDXL)})) as server:
        yield server


def link(site: FileServer, name: str = "model.safetensors", digest: str = "0" * 64) -> str:
    return f"{site.url}/{name}#sha256={digest}"


# ---- on this machine -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "pipeline"),
    [(SD1, "StableDiffusionPipeline"), (SD2, "StableDiffusionPipeline"), (SDXL, "StableDiffusionXLPipeline")],
)
def test_the_names_of_its_tensors_tell_what_a_file_is(tmp_path: Path, names: tuple[str, ...], pipeline: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors(names))
    found = inspect_base(str(tmp_path / "model.safetensors"))
    assert isinstance(found, LocalFile)
    assert pipeline_name(found) == pipeline
    assert upload_bytes(found, "ssh") == len(safetensors(names))
    assert job_base(found) == "file:" + hashlib.sha256(safetensors(names)).hexdigest()[:12]


def test_a_ckpt_is_searched_for_names_and_never_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path(tmp_path / "exploded").touch, ())

    with zipfile.ZipFile(tmp_path / "model.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": dict.fromkeys(SD2, 0), "bomb": Bomb()}))
    assert pipeline_name(inspect_base(str(tmp_path / "model.ckpt"))) == "StableDiffusionPipeline"
    assert not (tmp_path / "exploded").exists()


def test_a_ckpt_of_the_old_format_is_left_to_the_trainer(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02 not a zip archive")
    assert pipeline_name(inspect_base(str(tmp_path / "model.ckpt"))) == ""


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("lora", ("lora_unet_down_blocks_0.lora_down.weight",)),
        ("flux", ("double_blocks.0.img_attn.norm.key_norm.scale",)),
        ("denoiser_alone", SD1[:1]),
        ("refiner", REFINER),
    ],
)
def test_what_is_no_base_is_refused(what: str, names: tuple[str, ...], snapshot: Callable[[str, str], None]) -> None:
    with pytest.raises(UsageError) as caught:
        pipeline_of(names, "model.safetensors")
    snapshot(what, f"{caught.value.message}\n\nhint: {caught.value.hint}\n")


def test_a_cut_download_is_told_from_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors(SD1)[:40])
    assert "is no safetensors file" in refusal(str(tmp_path / "model.safetensors"))


def test_a_missing_file_and_one_of_another_kind_are_refused(tmp_path: Path) -> None:
    assert "there is no base file" in refusal(str(tmp_path / "model.safetensors"))
    (tmp_path / "notes.txt").write_text("x")
    assert "is no model file" in refusal(str(tmp_path / "notes.txt"))


# ---- at an address ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_at_an_address_is_known_by_its_header_alone(site: FileServer, ranges: bool) -> None:
    site.files["model.safetensors"] += bytes(1_000_000)
    site.ranges = ranges
    found = inspect_base(link(site))
    assert isinstance(found, LinkedFile)
    assert (found.pipeline, found.bytes) == ("StableDiffusionXLPipeline", len(site.files["model.safetensors"]))
    assert upload_bytes(found, "ssh") is None
    assert job_base(found) == link(site)
    if ranges:
        assert site.sent_bytes < 2_000


def test_an_address_without_hash_or_with_a_key_in_it_is_refused(site: FileServer) -> None:
    assert "does not say which file is meant" in refusal(f"{site.url}/model.safetensors")
    assert "carries a key" in refusal(link(site, "model.safetensors?token=abc"))
    assert "is no model file" in refusal(link(site, "model.zip"))


def test_an_address_that_answers_no_is_refused_and_one_that_does_not_answer_is_a_warning(site: FileServer) -> None:
    assert "cannot be downloaded (HTTP 404)" in refusal(link(site, "other.safetensors"))
    site.status = 503
    found = inspect_base(link(site))
    assert isinstance(found, LinkedFile)
    assert "could not be looked at (HTTP 503)" in found.warning
