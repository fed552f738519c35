"""Specs from TOML files and from flags.

All problems of a spec are reported together. Relative paths belong to the folder of the spec file, those of `--set`
and of photos given on the command line to the current directory; `~` is expanded; a `RunSpec` holds absolute paths
only.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.dataset.buckets import Sizing
from orchestrator.errors import UsageError
from orchestrator.spec import BUILTIN_RESOLUTION, SCHEMA, RunSpec, slug
from orchestrator.spec_check import every_problem
from orchestrator.spec_data import GIT_URL, NO_FOLDER
from orchestrator.spec_errors import Problem, usage_error
from orchestrator.spec_expansion import as_written, expand_files, expand_subjects
from orchestrator.subject_words import subject_words, with_article
from providers.registry import known_providers, nearest_provider, unknown_provider

_PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
_PATH_KEYS = (
    "data.instance", "data.regularization", "data.dataloader", "data.env", "data.root", "model.base",
    "compute.ssh.identity_file", "output.folder",
)  # fmt: skip


_FILES_OF_SIMPLETUNER = {".json": "dataloader", ".sh": "env"}


def load_spec(path: Path, overrides: Sequence[str] = ()) -> RunSpec:
    """The spec in a TOML file, or one of SimpleTuner's files, with `--set` values (`train.steps=800`) laid over it.

    A missing `name` becomes the file's stem. Raises UsageError naming every problem at once; reads nothing but the
    file, apart from asking whether `model.base` is there.
    """
    _refuse_what_is_no_spec(path)
    again = _WITH_THE_SAME if overrides else f"`cloudbooth plan {_quoted(path)}`"
    if path.suffix in _FILES_OF_SIMPLETUNER:
        raw: dict[str, Any] = {"name": slug(path.stem), "data": {_FILES_OF_SIMPLETUNER[path.suffix]: path.name}}
        return _resolve(raw, path.absolute().parent, overrides, str(path), again)
    try:
        text = path.read_text("utf-8-sig")
        raw = tomllib.loads(text)
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text", _INIT_HINT) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(*_syntax_error(path, text, str(error))) from None
    raw.setdefault("name", slug(path.stem))
    return _resolve(raw, path.absolute().parent, overrides, str(path), again)


def spec_from_photos(folder: Path, subject: str, overrides: Sequence[str] = ()) -> RunSpec:
    """The spec behind `launch PHOTOS --subject "sks dog"`: a rare word, then what the subject is.

    `subject` is read as `subject_words` reads it, so "a dog" is "sks dog". Prompts become "a photo
    of sks dog" and "a photo of a dog", the name `sks-dog`; all else is default or `--set`.
    """
    if folder.suffix == ".toml":
        raise UsageError(
            f"{folder} is a spec, which says by itself what the photos show: --subject does not go with it",
            f"leave out --subject, or change the spec's own: `--set subject.instance_prompt={_example_of(subject)}`",
        )
    words = subject_words(subject)
    raw: dict[str, Any] = {
        "name": slug(str(words)),
        "subject": {
            "instance_prompt": f"a photo of {words}",
            "class_prompt": f"a photo of {with_article(words.thing)}",
        },
        "data": {"instance": str(folder)},
    }
    return _resolve(raw, Path.cwd(), overrides, "the command line", _WITH_THE_SAME)


# ---- steps ---------------------------------------------------------------------------------------------------------

_INIT_HINT = (
    'a spec is a TOML file; without one give the folder of photos and say what they show: `--subject "sks dog"`'
)
_WITH_THE_SAME = "`cloudbooth plan` with the same arguments"


def _example_of(subject: str) -> str:
    return shlex.quote(f"a photo of {' '.join(subject.split()) or 'sks dog'}")


def _refuse_what_is_no_spec(path: Path) -> None:
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder, not a spec",
            'for a folder of photos say what they show: `--subject "sks dog"`',
        )
    if path.suffix.lower() in _PHOTO_SUFFIXES:
        raise UsageError(
            f"{path} is a photo, not a spec",
            f'give the folder with all photos, and say what they show: `{_quoted(path.parent)} --subject "sks dog"`',
        )
    if not path.exists():
        beside = sorted(path.parent.glob("*.toml")) if path.parent.is_dir() else []
        close = f"did you mean `{beside[0]}`" if len(beside) == 1 else _INIT_HINT
        raise UsageError(f"there is no spec {path}", close)


def _resolve(raw: dict[str, Any], folder: Path, overrides: Sequence[str], source: str, again: str) -> RunSpec:
    problems = [Problem(key, _NUL) for key in _take_out_nul(raw)]
    _place(raw, "output.folder", _find(raw, "output.folder") or "models")
    for key in _PATH_KEYS:
        _absolutize(raw, key, folder)
    _absolutize_sets(raw, folder)
    _absolutize_subjects(raw, folder)
    for override in overrides:
        problems += _apply(raw, override)
    problems += _unknown_provider(raw)
    refused: UsageError | None = None
    origins: Mapping[int, str] = {}
    try:
        origins = expand_subjects(raw)
        expand_files(raw)
    except UsageError as error:  # told with the other problems, and alone in its own words
        refused = error
        problems.append(Problem("data", error.message))
    _absolutize_sets(raw, Path.cwd())
    _prompts_of_sets(raw)
    _resolution_of_sets(raw)
    filled_in = _resolution_of_builtin(raw)
    # Missing sections as empty ones: pydantic then names the missing key and not only its section.
    for section in ("subject", "data"):
        raw.setdefault(section, {})
    problems += [Problem(key, "must be a finite number") for key in _non_finite(raw)]
    try:
        # Through JSON because strict validation of JSON takes a list for a tuple and text for a path,
        # and still refuses "800" for 800.
        spec = RunSpec.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        unsure = [problem.key for problem in problems] + ([] if refused is None else list(_EXPANDED))
        said = every_problem(RunSpec, raw, error, SCHEMA, unsure)
        problems += said if refused is None else [each for each in said if not each.key.startswith(_EXPANDED)]
    else:
        if not problems:
            return spec.with_filled_in(*filled_in)
    if refused is not None and len(problems) == 1:
        raise refused
    problems = [replace(problem, key=as_written(problem.key, origins)) for problem in problems]
    problems = [_with_flag(problem, overrides) for problem in problems]
    hint = f"{again} checks it again without starting anything"
    if problems == _unknown_provider(raw):
        hint = unknown_provider(str(_find(raw, "compute.provider"))).hint
    raise usage_error(source, problems, hint)


_EXPANDED = ("data.instance", "data.sets", "data.dataloader", "subject")
"""Keys that mean nothing while the files or subjects that they come from cannot be read."""


def _unknown_provider(raw: dict[str, Any]) -> list[Problem]:
    """Of names that could be one; what is no text, or empty, is the schema's to say."""
    name = _find(raw, "compute.provider")
    if not isinstance(name, str) or not name.strip() or name in known_providers():
        return []
    near = nearest_provider(name)
    return [Problem("compute.provider", unknown_provider(name).message, f"--provider {near}" if near else "")]


def _with_flag(problem: Problem, overrides: Sequence[str]) -> Problem:
    """An unknown key that a flag brought in comes with the flag as it was meant."""
    for override in overrides if problem.meant else ():
        key, _, value = override.partition("=")
        if key.strip() == problem.key or key.strip().startswith(f"{problem.key}."):
            meant = problem.meant + key.strip()[len(problem.key) :]
            return replace(problem, fix=f"--set {shlex.quote(f'{meant}={value}')}")
    return problem


def _apply(raw: dict[str, Any], override: str) -> list[Problem]:
    """Lays one `key.path=value` over the raw spec; the value is TOML, or else a bare word."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", key):
        return [Problem(f"--set {override}", "must look like train.steps=800")]
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    nul = list(_take_out_nul(placed := {key: value}))
    value = placed[key]
    if not _place(raw, key, value):
        return [Problem(f"--set {override}", "goes through a key that is not a section")]
    if key in _PATH_KEYS:
        _absolutize(raw, key, Path.cwd())
    return [Problem(each, _NUL) for each in nul]


def _absolutize(raw: dict[str, Any], key: str, folder: Path) -> None:
    value = _find(raw, key)
    if not isinstance(value, str) or not value:
        return
    if key == "data.regularization" and (NO_FOLDER.fullmatch(value) or GIT_URL.match(value)):
        return
    path = Path(value).expanduser()
    if key == "model.base" and not value.startswith(("/", "./", "../", "~")) and not (folder / path).exists():
        return  # a hub id, a builtin or an address
    _place(raw, key, os.path.normpath(folder / path))


def _absolutize_sets(raw: dict[str, Any], folder: Path) -> None:
    """Does nothing to what is absolute already."""
    _absolutize_each(_tables(_find(raw, "data.sets")), ("pictures", "parquet"), folder)


def _absolutize_subjects(raw: dict[str, Any], folder: Path) -> None:
    _absolutize_each(_tables(raw.get("subject")), ("instance", "regularization", "parquet"), folder)


def _absolutize_each(tables: list[dict[str, Any]], keys: Sequence[str], folder: Path) -> None:
    for each in tables:
        for key in keys:
            value = each.get(key)
            if isinstance(value, str) and value and not (NO_FOLDER.fullmatch(value) or GIT_URL.match(value)):
                each[key] = os.path.normpath(folder / Path(value).expanduser())


def _prompts_of_sets(raw: dict[str, Any]) -> None:
    """Sets with prompts need no `[subject]`: the first of each role stands for it."""
    subject = raw.setdefault("subject", {})
    if not isinstance(subject, dict):
        return
    for each in _tables(_find(raw, "data.sets")):
        role = each.get("role", "instance")
        if isinstance(each.get("prompt"), str) and role in ("instance", "class"):
            subject.setdefault(f"{role}_prompt", each["prompt"])


def _resolution_of_sets(raw: dict[str, Any]) -> None:
    """Where the sets say at which size they are trained, the first of the subject says it for the run."""
    train = raw.setdefault("train", {})
    for each in _tables(_find(raw, "data.sets")):
        value, unit = each.get("resolution"), each.get("resolution_type", "side")
        if each.get("role", "instance") == "instance" and isinstance(train, dict):
            if unit in ("side", "area", "short-edge") and isinstance(value, (int, float)) and 0 < value <= 2048:
                train.setdefault("resolution", Sizing(unit, value, square=True).side)
            return


def _resolution_of_builtin(raw: dict[str, Any]) -> tuple[str, ...]:
    """A builtin base knows one size, far from the usual default. Returns the key if it was put in."""
    base, train = _find(raw, "model.base"), raw.setdefault("train", {})
    if not isinstance(base, str) or not base.startswith("builtin:"):
        return ()
    if not isinstance(train, dict) or "resolution" in train:
        return ()
    train["resolution"] = BUILTIN_RESOLUTION
    return ("train.resolution",)


def _tables(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _find(raw: dict[str, Any], key: str) -> object:
    here: object = raw
    for part in key.split("."):
        here = here.get(part) if isinstance(here, dict) else None
    return here


def _place(raw: dict[str, Any], key: str, value: object) -> bool:
    """False when the way to the key leads through a value that is no section."""
    *sections, leaf = key.split(".")
    here = raw
    for section in sections:
        here = here.setdefault(section, {})
        if not isinstance(here, dict):
            return False
    here[leaf] = value
    return True


def _non_finite(value: object, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _non_finite(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, float) and not math.isfinite(value):
        yield key


_NUL = "must not hold the character U+0000: no file name and no argument can"


def _take_out_nul(value: Any, key: str = "") -> Iterator[str]:
    """The keys of texts with a NUL, which is taken out in place, so that what looks at the rest meets none."""
    if isinstance(value, dict):
        inner = [(name, f"{key}.{name}" if key else str(name)) for name in value]
    else:
        inner = [(number, f"{key}[{number}]") for number in range(len(value))] if isinstance(value, list) else []
    for place, named in inner:
        if isinstance(value[place], str) and "\0" in value[place]:
            value[place] = value[place].replace("\0", "")
            yield named
        else:
            yield from _take_out_nul(value[place], named)


def _syntax_error(path: Path, text: str, message: str) -> tuple[str, str]:
    where = re.search(r"\s*\(at line (\d+), column (\d+)\)", message)
    if where is None:  # "(at end of document)"
        number = max(1, len(text.splitlines()))
        what = message.partition(" (at ")[0]
    else:
        number, what = int(where[1]), message[: where.start()]
    lines = text.splitlines()
    line = lines[number - 1].strip() if number <= len(lines) else ""
    return (
        f"{path}, line {number}: {what[:1].lower()}{what[1:]}" + (f"\n  {line}" if line else ""),
        'text stands in quotes (`method = "lora"`), lists in brackets (`gpu = ["RTX 4090"]`)',
    )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
