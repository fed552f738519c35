"""Shorter and foreign ways to write a spec, turned into its own keys before it is checked: several `[[subject]]`s, and
the files of SimpleTuner.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.dataset.simpletuner import read_dataloader, translate_dataloader
from orchestrator.dataset.simpletuner_env import EnvFile, default_size, read_env, translate_env
from orchestrator.dataset.translation import Translated, Translation, shown
from orchestrator.errors import UsageError
from orchestrator.spec import RunSpec, slug

Raw = dict[str, Any]


def expand_files(raw: Raw) -> None:
    """Lays what SimpleTuner's files say under the spec: its own keys win. Paths in it are absolute.

    Raises UsageError for a file that cannot be used, and for a dataloader file beside other ways to name photos.
    """
    data = raw.get("data")
    if not isinstance(data, dict):
        return
    env = _env(data)
    if env is not None:
        _lay_under(raw, translate_env(env, Path(data["env"])))
    if isinstance(data.get("dataloader"), str):
        if data.get("instance") or data.get("sets"):
            raise UsageError("data.dataloader names the photos already", "leave out data.instance and data.sets")
        _lay_under(raw, _dataloader(data, env))


def translation_of(spec: RunSpec) -> tuple[Translated, ...]:
    """What became of each key of the spec's files, which are read again. Says where the spec's own keys won."""
    data = spec.data.model_dump(mode="json")
    env = _env(data)
    parts = [] if env is None else [translate_env(env, Path(data["env"]))]
    if data["dataloader"] is not None:
        parts.append(_dataloader(data, env))
    return tuple(row for part in parts for row in _against(part, spec))


def expand_subjects(raw: Raw) -> Mapping[int, str]:
    """`[[subject]]`s become `data.sets`: for each its photos, and class images where it has some.

    Answers which set, by its number, came from which subject; those of class images with `CLASS_OF` before it.
    """
    subjects = raw.get("subject")
    if not isinstance(subjects, list):
        return {}
    data = raw.setdefault("data", {})
    if not isinstance(data, dict) or not all(isinstance(each, dict) for each in subjects):
        return {}
    if data.get("sets") or data.get("instance"):
        raise UsageError("several [[subject]]s name their photos themselves", "leave out data.instance and data.sets")
    sets: list[Raw] = []
    origins: dict[int, str] = {}
    for number, subject in enumerate(subjects):
        rest = dict(subject)
        class_prompt, regularization = rest.pop("class_prompt", None), rest.pop("regularization", "none")
        id_ = _free_id(slug(Path(str(rest.get("instance", "subject"))).name), sets)
        ours = {theirs: rest.pop(key) for key, theirs in _AS_SET.items() if key in rest}
        origins[len(sets)] = f"subject[{number}]"
        sets.append({"id": id_, **ours, **rest})
        if regularization != "none":
            origins[len(sets)] = f"{CLASS_OF}subject[{number}]"
            class_set = {"id": _free_id(f"{id_}-class", sets), "role": "class", "pictures": regularization}
            sets.append(class_set | ({} if class_prompt is None else {"prompt": class_prompt}))
    data["sets"] = sets
    first = subjects[0] if subjects else {}
    raw["subject"] = {key: first[key] for key in ("instance_prompt", "class_prompt") if key in first}
    return origins


def as_written(key: str, origins: Mapping[int, str]) -> str:
    """The key of a problem as the user wrote it: `subject[1].instance` for `data.sets[2].pictures`."""
    found = re.match(r"data\.sets\[(\d+)\]\.?(.*)", key)
    if found is None or int(found[1]) not in origins:
        return key
    origin = origins[int(found[1])]
    back = _AS_SUBJECTS_CLASS if origin.startswith(CLASS_OF) else {theirs: ours for ours, theirs in _AS_SET.items()}
    return f"{origin.removeprefix(CLASS_OF)}.{back.get(found[2], found[2])}"


CLASS_OF = "class images of "
_AS_SET = {"instance": "pictures", "instance_prompt": "prompt"}
_AS_SUBJECTS_CLASS = {"pictures": "regularization", "prompt": "class_prompt"}


def _free_id(wanted: str, sets: list[Raw]) -> str:
    taken = {each["id"] for each in sets}
    names = (wanted if number == 1 else f"{wanted}-{number}" for number in range(1, len(sets) + 2))
    return next(name for name in names if name not in taken)


def _env(data: Mapping[str, Any]) -> EnvFile | None:
    return read_env(Path(data["env"])) if isinstance(data.get("env"), str) else None


def _dataloader(data: Mapping[str, Any], env: EnvFile | None) -> Translation:
    path, root = Path(data["dataloader"]), data.get("root")
    least = data.get("min_area_mp", 0.0)
    return translate_dataloader(
        read_dataloader(path),
        path,
        root=Path(root) if isinstance(root, str) else None,
        min_area_mp=least if isinstance(least, (int, float)) else 0.0,
        default_size=None if env is None else default_size(env),
    )


def _lay_under(raw: Raw, translated: Translation) -> None:
    for section, values in (("train", translated.train), ("model", translated.model), ("data", translated.data)):
        there = raw.setdefault(section, {})
        if isinstance(there, dict):
            for key, value in values.items():
                there.setdefault(key, value)
    if translated.sets:
        raw["data"]["sets"] = [dict(each) for each in translated.sets]


def _against(translated: Translation, spec: RunSpec) -> list[Translated]:
    rows = list(translated.rows)
    for key, value in translated.train.items():
        actual = getattr(spec.train, key)
        actual = list(actual) if isinstance(actual, tuple) else actual
        if actual != value:
            note = f"but the spec's own key says {shown(actual)}"
            rows = [
                replace(row, why=f"{row.why}; {note}" if row.why else note)
                if row.became.startswith(f"train.{key} =")
                else row
                for row in rows
            ]
    return rows
