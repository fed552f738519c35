"""Where a base model comes from: what the spec calls it → what `from_pretrained` can open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from remote_trainer.bases import fetch, shipped, tiny
from remote_trainer.errors import TrainingFailed

BUILTIN_PREFIX = "builtin:"

_BUILTIN = {"tiny": tiny}


def resolve_base(
    base: str, cache_folder: Path, config: str | None = None, say: Callable[[str], None] = lambda _line: None
) -> str:
    """A diffusers folder, or a hub id with optional `@revision`, returned as it came.

    A builtin base lies beside the code, or is built once under `cache_folder/<content version>`, which takes a second;
    a single file becomes a folder there, with the configuration that `config` names, and one at an address is fetched
    first; concurrent callers get the same complete folder. Raises TrainingFailed("base-not-found") for a builtin nobody
    knows or that is not whole here, and for a path or address that holds no base. A hub id is not looked up here.
    """
    if base.startswith(("https://", "http://")):
        base = str(fetch.fetch(base, cache_folder, say))
    if base.startswith(BUILTIN_PREFIX):
        name = base.removeprefix(BUILTIN_PREFIX)
        if name in shipped.NAMES:
            return str(shipped.folder_of(name))
        if name not in _BUILTIN:
            known = ", ".join(f"`{BUILTIN_PREFIX}{each}`" for each in sorted((*_BUILTIN, *shipped.NAMES)))
            raise TrainingFailed("base-not-found", f"there is no builtin base {name!r}", f"known ones: {known}")
        folder = cache_folder / _BUILTIN[name].CONTENT_VERSION
        _BUILTIN[name].build(folder)
        return str(folder)
    path = Path(base).expanduser()
    if path.is_file():
        from remote_trainer.bases import single_file

        shape = resolve_base(config, cache_folder) if config else None
        say(f"unpacking {path.name}, once")
        return str(single_file.unpacked(path, shape, cache_folder))
    if (path / "model_index.json").is_file():
        return str(path)
    if path.exists() or base.startswith(("/", "./", "../", "~")):
        raise TrainingFailed(
            "base-not-found",
            f"{base} is no diffusers folder: it has no model_index.json",
            'name the folder that `save_pretrained` wrote, a hub id, or "builtin:toybox"',
        )
    return base
