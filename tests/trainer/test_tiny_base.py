"""The builtin base: a whole Stable Diffusion pipeline that needs no download."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from remote_trainer.errors import TrainingFailed

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from remote_trainer.bases import tiny  # noqa: E402
from remote_trainer.bases.resolve import resolve_base  # noqa: E402


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    tiny.build(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(base: Path) -> diffusers.StableDiffusionPipeline:
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(base)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_two_builds_have_equal_files(base: Path, tmp_path: Path) -> None:
    tiny.build(tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(base)


def test_the_weights_are_those_of_the_content_version() -> None:
    """A cached folder is named by the version alone, so weights must not change under it."""
    digest = hashlib.sha256()
    for model in (tiny.build_unet(), tiny.build_vae(), tiny.build_text_encoder()):
        named = {name.removeprefix("text_model."): tensor for name, tensor in model.named_parameters()}
        for name in sorted(named):
            digest.update(name.encode() + named[name].detach().numpy().tobytes())
    assert (tiny.CONTENT_VERSION, digest.hexdigest()[:16]) == ("tiny-2", "d011febc7f97758e")


def test_latents_are_the_means_of_four_by_four_pixels(pipeline: diffusers.StableDiffusionPipeline) -> None:
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        posterior = pipeline.vae.encode(pixels).latent_dist
    means = torch.nn.functional.avg_pool2d(pixels, 4)
    assert posterior.mean.shape == (2, 3, 16, 24)
    assert (posterior.mean - means).abs().max() < 1e-4
    assert posterior.std.max() < 1e-5


@pytest.mark.parametrize("level", [-1.0, 0.0, 1.0])
def test_flat_pictures_survive_encoding_and_decoding(pipeline: diffusers.StableDiffusionPipeline, level: float) -> None:
    pixels = torch.full((1, 3, 64, 64), level)
    with torch.no_grad():
        again = pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mode()).sample
    assert (again - pixels).abs().max() < 1e-3


def test_a_picture_made_of_four_by_four_blocks_survives_encoding_and_decoding(
    pipeline: diffusers.StableDiffusionPipeline,
) -> None:
    blocks = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pixels = torch.nn.functional.interpolate(blocks, scale_factor=4, mode="nearest")
    with torch.no_grad():
        again = pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mode()).sample
    assert (again - pixels).abs().max() < 1e-3


def test_the_pipeline_makes_a_picture(pipeline: diffusers.StableDiffusionPipeline) -> None:
    made = pipeline("a photo of sks robot", height=64, width=64, num_inference_steps=2).images[0]
    assert made.size == (64, 64)
    assert len(made.getcolors(maxcolors=64 * 64)) > 1


def test_it_predicts_v(pipeline: diffusers.StableDiffusionPipeline) -> None:
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("prompt", ["a photo of sks robot on the beach", "zyx 42 naïve 猫"])
def test_prompts_survive_the_tokenizer(pipeline: diffusers.StableDiffusionPipeline, prompt: str) -> None:
    ids = pipeline.tokenizer(prompt).input_ids
    text = pipeline.tokenizer.decode(ids, skip_special_tokens=True)
    assert text.replace(" ", "") == prompt.replace(" ", "")


def test_a_word_of_the_vocabulary_is_one_token(pipeline: diffusers.StableDiffusionPipeline) -> None:
    assert pipeline.tokenizer.tokenize("a photo of sks robot") == [
        f"{word}</w>" for word in ("a", "photo", "of", "sks", "robot")
    ]


def test_prompts_are_padded_and_cut_to_77_tokens(pipeline: diffusers.StableDiffusionPipeline) -> None:
    for prompt in ("dog", "dog " * 200):
        ids = pipeline.tokenizer(prompt, padding="max_length", truncation=True).input_ids
        assert len(ids) == 77
        assert ids[-1] == pipeline.tokenizer.eos_token_id


def test_different_prompts_have_different_embeddings(pipeline: diffusers.StableDiffusionPipeline) -> None:
    with torch.no_grad():
        robot, dog = (
            pipeline.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)[0]
            for prompt in ("a photo of sks robot", "a photo of sks dog")
        )
    assert robot.shape == (1, 77, 64)
    assert (robot - dog).abs().max() > 0.1


def test_a_builtin_base_is_built_once(tmp_path: Path) -> None:
    first = Path(resolve_base("builtin:tiny", tmp_path))
    written = (first / "model_index.json").stat().st_mtime_ns
    assert resolve_base("builtin:tiny", tmp_path) == str(first) == str(tmp_path / tiny.CONTENT_VERSION)
    assert (first / "model_index.json").stat().st_mtime_ns == written


def test_two_processes_may_build_at_once(tmp_path: Path, base: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from remote_trainer.bases.resolve import resolve_base;"
        "print(resolve_base('builtin:tiny', Path(sys.argv[1])))"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(2)]
    answers = [process.communicate(timeout=120)[0].decode().strip() for process in both]
    assert answers == [str(tmp_path / tiny.CONTENT_VERSION)] * 2
    assert [path.name for path in tmp_path.iterdir()] == [tiny.CONTENT_VERSION]
    assert hashes(tmp_path / tiny.CONTENT_VERSION) == hashes(base)


def test_an_unknown_builtin_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed) as failure:
        resolve_base("builtin:huge", tmp_path)
    assert failure.value.code == "base-not-found"
    assert "builtin:tiny" in failure.value.hint


def test_a_diffusers_folder_is_taken_as_it_is(base: Path, tmp_path: Path) -> None:
    assert resolve_base(str(base), tmp_path) == str(base)


def test_a_folder_without_a_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"model_index\.json"):
        resolve_base(str(tmp_path), tmp_path)


def test_a_hub_id_passes_unchanged(tmp_path: Path) -> None:
    assert resolve_base("someone/some-model@v1", tmp_path) == "someone/some-model@v1"
