"""What opens the files of a finished model, and the first lines of code to do it."""

from __future__ import annotations

from pathlib import Path

from orchestrator.report.contents import ModelFile

_FILE_IN_UI = "AUTOMATIC1111 or ComfyUI: copy it to the folder `{a1111}` or `{comfy}`"


def model_files(output: Path, prompt: str, base: str, guidance: float | None = None) -> tuple[ModelFile, ...]:
    """Those of the run's output folder that a program opens, most useful first. `prompt` is what it was trained with,
    `guidance` what its spec states for pictures; None leaves it to the pipeline.

    Which is which follows from the names that the exports have.
    """
    files = []
    for path in sorted(output.iterdir(), key=lambda path: path.name):
        opens_in, example = _opens(path, _call(prompt, guidance), base)
        if opens_in:
            files.append(ModelFile(str(path), _bytes(path), opens_in, example))
    return tuple(sorted(files, key=lambda file: (not file.example, file.path)))


def _opens(path: Path, call: str, base: str) -> tuple[str, str]:
    if path.name == "diffusers" and path.is_dir():
        load = f"pipe = DiffusionPipeline.from_pretrained({str(path)!r})"
        return "diffusers, in Python", _script(load, call)
    if path.name.endswith("-kohya.safetensors"):
        return _FILE_IN_UI.format(a1111="models/Lora", comfy="models/loras") + "; a LoRA", ""
    if path.suffix == ".ckpt":
        return "older programs; a `.ckpt` can run code when it is opened, so prefer `.safetensors`", ""
    if path.suffix == ".safetensors" and path.stem.rpartition("_")[2].isdigit() and "_" in path.stem:
        return _FILE_IN_UI.format(a1111="models/Stable-diffusion", comfy="models/checkpoints") + "; the whole model", ""
    if path.suffix == ".safetensors":
        hub_id, _, revision = base.partition("@")
        pinned = f", revision={revision!r}" if revision else ""
        load = f"pipe = DiffusionPipeline.from_pretrained({hub_id!r}{pinned})\npipe.load_lora_weights({str(path)!r})"
        return "diffusers, in Python, as a LoRA on its base", _script(load, call)
    return "", ""


def _call(prompt: str, guidance: float | None) -> str:
    return f"pipe({prompt!r})" if guidance is None else f"pipe({prompt!r}, guidance_scale={guidance})"


def _script(load: str, call: str) -> str:
    return f'from diffusers import DiffusionPipeline\n\n{load}\n{call}.images[0].save("picture.png")'


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())
