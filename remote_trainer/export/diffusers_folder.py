"""The whole pipeline as a folder that `DiffusionPipeline.from_pretrained` opens.

Only the denoiser was trained, so everything else is copied file by file: what is not loaded and saved again cannot be
changed by a library's newer idea of its own format (CLIP text models saved by transformers ≥ 5.6 lack a prefix).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..families.api import Family
from .digests import Digest, digests, require_equal

_WEIGHT_SUFFIXES = (".safetensors", ".bin")
_FOREIGN_SUFFIXES = (".msgpack", ".h5", ".onnx", ".pb", ".ckpt", ".pt", ".pth")


def write(family: Family, denoiser: nn.Module, folder: Path) -> None:
    """The base's pipeline with `denoiser` (plain, without adapter) in its place. `folder` must not exist."""
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
    _save_denoiser(family, denoiser, folder / family.denoiser_folder)
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def verify(family: Family, denoiser: dict[str, Digest], folder: Path) -> None:
    """Loads `folder` as a user would and compares every tensor: the denoiser's with the trained ones, all others with
    the base's. Raises TrainingFailed("export-mismatch"). Holds one pipeline and one further component at a time.
    """
    pipeline = family.load_pipeline(folder)
    loaded = pipeline.components[family.denoiser_folder]
    require_equal("the exported denoiser", denoiser, digests(loaded.state_dict()))
    for name, component in pipeline.components.items():
        if isinstance(component, nn.Module) and name != family.denoiser_folder:
            kind: Any = type(component)
            original = kind.from_pretrained(family.folder / name, torch_dtype=torch.float32)
            expected = digests(original.state_dict())
            require_equal(f"the exported {name}", expected, digests(component.state_dict()))


def _save_denoiser(family: Family, denoiser: nn.Module, folder: Path) -> None:
    savable: Any = denoiser
    savable.save_pretrained(folder, safe_serialization=True)
    # The architecture is the base's own; the configuration in memory also names a path on this host.
    shutil.copyfile(family.folder / family.denoiser_folder / "config.json", folder / "config.json")


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
