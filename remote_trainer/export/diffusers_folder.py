"""The whole pipeline as a folder that `DiffusionPipeline.from_pretrained` opens.

What was not trained is copied file by file: what is not loaded and saved again cannot be changed by a library's newer
idea of its own format. CLIP text models saved by transformers ≥ 5.6 lack a prefix, so trained ones are written here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ..adapters import Trained, text_layer
from ..families.api import Family
from .digests import Digest, digests, require_equal

_WEIGHT_SUFFIXES = (".safetensors", ".bin")
_FOREIGN_SUFFIXES = (".msgpack", ".h5", ".onnx", ".pb", ".ckpt", ".pt", ".pth")


def write(family: Family, trained: Trained, folder: Path) -> None:
    """The base's pipeline with `trained` (plain, without adapters) in their places. `folder` must not exist."""
    folder.mkdir(parents=True)
    index: dict[str, Any] = json.loads((family.folder / "model_index.json").read_bytes())
    for name, entry in index.items():
        source = family.folder / name
        if not isinstance(entry, list) or name == family.denoiser_folder:
            continue
        if source.is_dir():
            _copy_component(source, folder / name)
        else:
            index[name] = [None, None]
    index.pop("_name_or_path", None)
    _save_denoiser(family, trained.denoiser, folder / family.denoiser_folder)
    for component, model in trained.texts.items():
        _replace_text_weights(model, folder / component)
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def verify(
    family: Family,
    denoiser: dict[str, Digest],
    folder: Path,
    *,
    texts: Mapping[str, Mapping[str, Digest]] | None = None,
) -> None:
    """Loads `folder` as a user would and compares every tensor: those of the denoiser and of `texts`, by component,
    with the trained ones, all others with the base's. Raises TrainingFailed("export-mismatch"). Holds one pipeline and
    one further component at a time.
    """
    pipeline = family.load_pipeline(folder)
    loaded = pipeline.components[family.denoiser_folder]
    require_equal("the exported denoiser", denoiser, digests(loaded.state_dict()))
    for name, component in pipeline.components.items():
        if isinstance(component, nn.Module) and name != family.denoiser_folder:
            if texts and name in texts:
                expected: Mapping[str, Digest] = texts[name]
            else:
                kind: Any = type(component)
                original = kind.from_pretrained(family.folder / name, torch_dtype=torch.float32)
                expected = digests(original.state_dict())
            require_equal(f"the exported {name}", expected, digests(component.state_dict()))


def _save_denoiser(family: Family, denoiser: nn.Module, folder: Path) -> None:
    savable: Any = denoiser
    savable.save_pretrained(folder, safe_serialization=True)
    # The architecture is the base's own; the configuration in memory also names a path on this host.
    shutil.copyfile(family.folder / family.denoiser_folder / "config.json", folder / "config.json")


def _replace_text_weights(model: nn.Module, folder: Path) -> None:
    for path in folder.iterdir():
        if path.suffix in _WEIGHT_SUFFIXES or path.name.endswith(".index.json"):
            path.unlink()
    tensors = {text_layer(name): tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _copy_component(source: Path, target: Path) -> None:
    """Configurations and one set of weights: safetensors where there are any, and no variants such as fp16."""
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and path.suffix not in _FOREIGN_SUFFIXES]
    weights = [path for path in files if path.suffix in _WEIGHT_SUFFIXES and not _is_variant(path)]
    chosen = [path for path in weights if path.suffix == ".safetensors"] or weights
    for path in files:
        if path.suffix in _WEIGHT_SUFFIXES and path not in chosen:
            continue
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def _is_variant(path: Path) -> bool:
    """`model.fp16.safetensors`, `diffusion_pytorch_model.non_ema.bin`."""
    return "." in path.stem
