"""Where a base model comes from: what the spec calls it → what `from_pretrained` can open."""

from __future__ import annotations

from pathlib import Path

from remote_trainer.bases import tiny
from remote_trainer.errors import TrainingFailed

BUILTIN_PREFIX = "builtin:"

_BUILTIN = {"tiny": tiny}


def resolve_base(base: str, cache_folder: Path) -> str:
    """A diffusers folder, or a hub id with optional `@revision`, returned as it came.

    A builtin base is built once under `cache_folder/<content version>`, which takes a second; concurrent callers
    get the same complete folder. Raises TrainingFailed("base-not-found") for a builtin nobody knows, and for a
    path that is no diffusers folder. A hub id is not looked up here.
    """
    if base.startswith(BUILTIN_PREFIX):
        name = base.removeprefix(BUILTIN_PREFIX)
        if name not in _BUILTIN:
            known = ", ".join(f"`{BUILTIN_PREFIX}{each}`" for each in sorted(_BUILTIN))
            raise TrainingFailed("base-not-found", f"there is no builtin base {name!r}", f"known ones: {known}")
        folder = cache_folder / _BUILTIN[name].CONTENT_VERSION
        _BUILTIN[name].build(folder)
        return str(folder)
    path = Path(base).expanduser()
    if (path / "model_index.json").is_file():
        return str(path)
    if path.exists() or base.startswith(("/", "./", "../", "~")):
        raise TrainingFailed(
            "base-not-found",
            f"{base} is no diffusers folder: it has no model_index.json",
            'name the folder that `save_pretrained` wrote, a hub id, or "builtin:tiny"',
        )
    return base
