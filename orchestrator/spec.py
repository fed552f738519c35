"""The spec of a run: TOML and flags in, one frozen value out.

`RunSpec` wraps `remote_trainer.wire.TrainSpec` as it is: pydantic validates the stdlib dataclass in place, so the
ranges of `[train]` are written once. Values are checked strictly (`steps = "800"` is an error, not 800), all
problems of a spec are reported together, and a key that no code reads is refused, never ignored.

Paths are absolute in a `RunSpec`: relative ones belong to the folder of the spec file, those of `--set` and of
photos given on the command line to the current directory. `~` is expanded.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from orchestrator.errors import UsageError
from orchestrator.spec_errors import Problem, Schema, problems_of, usage_error
from providers.api import SshAccess
from remote_trainer.wire import ExportFormat, Method, TrainSpec

DEFAULT_BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
APPLICABLE_FORMATS: dict[Method, tuple[ExportFormat, ...]] = {"full": ("diffusers",), "lora": ("lora",)}
"""What each method can be exported to; also the default, in this order."""

_PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
_GENERATE = re.compile(r"generate:([1-9][0-9]{0,5})")
_GIT_URL = re.compile(r"(https?|ssh|git)://|git@|.*\.git$")
_PATH_KEYS = ("data.instance", "data.regularization", "model.base", "compute.ssh.identity_file", "output.folder")


# ---- the sections --------------------------------------------------------------------------------------------------


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Prompt = Annotated[str, Field(pattern=r"\S")]


class Subject(_Section):
    instance_prompt: Prompt
    """What a picture of the subject is called: `a photo of sks dog`. A photo's caption file wins over it."""
    class_prompt: Prompt | None = None
    """What others of its kind are called: `a photo of a dog`. Needed with class images."""


@dataclass(frozen=True)
class NoClassImages:
    """Training without prior preservation."""


@dataclass(frozen=True)
class ClassFolder:
    folder: Path


@dataclass(frozen=True)
class GeneratedClassImages:
    count: int


ClassImageSource = NoClassImages | ClassFolder | GeneratedClassImages


class Data(_Section):
    instance: Path
    """Folder of photos; `name.txt` beside `name.jpg` is its caption."""
    regularization: str = "none"
    """`none`, `generate:N` or a folder; read it through `class_images`."""

    @field_validator("regularization")
    @classmethod
    def _known_source(cls, value: str) -> str:
        if value.startswith("generate:") and not _GENERATE.fullmatch(value):
            raise ValueError(f'must name a count, for example "generate:200", is "{value}"')
        if _GIT_URL.match(value):
            raise ValueError(f"git addresses are not supported yet: run `git clone {value}` and give the folder")
        return value

    @property
    def class_images(self) -> ClassImageSource:
        if self.regularization == "none":
            return NoClassImages()
        generate = _GENERATE.fullmatch(self.regularization)
        return GeneratedClassImages(int(generate[1])) if generate else ClassFolder(Path(self.regularization))


class Model(_Section):
    base: Annotated[str, Field(pattern=r"\S")] = DEFAULT_BASE
    """`builtin:NAME`, an absolute diffusers folder, or a hub id with optional `@revision`."""


class Ssh(_Section):
    host: Annotated[str, Field(pattern=r"^[^\s@-][^\s@]*(@[^\s@-][^\s@]*)?$")]
    """An alias of ~/.ssh/config, a host name, or `user@host`."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    user: str | None = None
    identity_file: str | None = None
    python: str = "python3"
    workdir: str = "~/cloudbooth"
    """On the host: `~` is the home there."""

    @model_validator(mode="after")
    def _one_user(self) -> Self:
        if "@" in self.host and self.user not in (None, self.host.split("@")[0]):
            raise ValueError(f'host = "{self.host}" and user = "{self.user}" name different users')
        return self

    @property
    def access(self) -> SshAccess:
        user, _, host = self.host.rpartition("@")
        return SshAccess(host, self.port, user or self.user, self.identity_file, self.python, self.workdir)


class Compute(_Section):
    provider: Annotated[str, Field(pattern=r"\S")] = "local"
    """A name under the entry-point group `cloudbooth.providers`; whether it exists is the registry's to say."""
    market: Literal["on-demand", "spot", "spot-then-on-demand"] = "on-demand"
    gpu: tuple[str, ...] = ()
    """In order of preference; empty: anything with `min_vram_gb`."""
    min_vram_gb: Annotated[float, Field(ge=0)] = 0.0
    max_price_per_hour: Annotated[float, Field(ge=0)] | None = None
    """USD."""
    disk_gb: Annotated[float, Field(gt=0)] | None = None
    trust: Literal["any", "secure"] = "any"
    allow_cpu: bool = False
    ssh: Ssh | None = None

    @model_validator(mode="after")
    def _ssh_has_a_host(self) -> Self:
        if self.provider == "ssh" and self.ssh is None:
            raise ValueError('provider "ssh" needs compute.ssh.host, for example host = "me@gpu-box"')
        return self


class Limits(_Section):
    max_cost_usd: Annotated[float, Field(ge=0)] = 5.0
    max_hours: Annotated[float, Field(gt=0)] | None = None


class Output(_Section):
    folder: Path = Path("models")
    formats: tuple[ExportFormat, ...] = ()
    """Empty: what the method yields (`APPLICABLE_FORMATS`)."""


class RunSpec(_Section):
    name: str
    """Name of the model, and the stem of its files."""
    subject: Subject
    data: Data
    model: Model = Model()
    train: TrainSpec = TrainSpec()
    compute: Compute = Compute()
    limits: Limits = Limits()
    output: Output = Output()

    @field_validator("name")
    @classmethod
    def _usable_as_file_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?", value):
            raise ValueError(f'must be letters, digits, "-", "_" and "." only, as it names files; try "{slug(value)}"')
        return value

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if not isinstance(self.data.class_images, NoClassImages) and self.subject.class_prompt is None:
            raise ValueError(
                'data.regularization needs subject.class_prompt, for example class_prompt = "a photo of a dog"'
            )
        applicable = APPLICABLE_FORMATS[self.train.method]
        for chosen in self.output.formats:
            if chosen not in applicable:
                raise ValueError(
                    f'output.formats: "{chosen}" does not apply to train.method = "{self.train.method}", '
                    f"which yields {', '.join(applicable)}"
                )
        return self


_SCHEMA = Schema.of(RunSpec)


# ---- reading -------------------------------------------------------------------------------------------------------


def load_spec(path: Path, overrides: Sequence[str] = ()) -> RunSpec:
    """The spec in a TOML file with `--set` values (`train.steps=800`) laid over it.

    A missing `name` becomes the file's stem. Raises UsageError naming every problem at once; reads nothing but the
    file, apart from asking whether `model.base` is a folder.
    """
    _refuse_what_is_no_spec(path)
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
    return _resolve(raw, path.absolute().parent, overrides, str(path), f"cloudbooth plan {_quoted(path)}")


def spec_from_photos(folder: Path, subject: str, overrides: Sequence[str] = ()) -> RunSpec:
    """The spec behind `launch PHOTOS --subject "sks dog"`: a rare word, then what the subject is.

    Prompts become "a photo of sks dog" and "a photo of a dog", the name `sks-dog`; all else is default or `--set`.
    """
    words = subject.split()
    if len(words) < 2:
        raise UsageError(
            f'--subject "{subject}" does not say what the subject is',
            f"give a rare word and the kind of thing: "
            f'`cloudbooth launch {_quoted(folder)} --subject "{words[0] if words else "sks"} dog"`',
        )
    kind = " ".join(words[1:])
    raw: dict[str, Any] = {
        "name": slug(subject),
        "subject": {
            "instance_prompt": f"a photo of {' '.join(words)}",
            "class_prompt": f"a photo of {'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}",
        },
        "data": {"instance": str(folder)},
    }
    command = f'cloudbooth plan {_quoted(folder)} --subject "{subject}"'
    return _resolve(raw, Path.cwd(), overrides, "the command line", command)


def spec_to_json(spec: RunSpec) -> str:
    """For the ledger: `spec_from_json` gives back an equal spec."""
    return spec.model_dump_json()


def spec_from_json(text: str) -> RunSpec:
    """Raises UsageError when the text was written by a version with other keys."""
    try:
        return RunSpec.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise usage_error(
            "the recorded spec", problems_of(error, _SCHEMA), "use the version of cloudbooth that began the run"
        ) from None


def slug(text: str) -> str:
    """`text` as a file name: lower-case ASCII words joined by `-`; `model` when nothing is left."""
    words = "-".join(re.findall(r"[a-z0-9_.]+", text.lower()))
    return re.sub(r"^[^a-z0-9]+|[^a-z0-9_-]+$|-+$", "", words[:64]) or "model"


# ---- steps ---------------------------------------------------------------------------------------------------------

_INIT_HINT = 'a spec is a TOML file; without one: `cloudbooth launch PHOTOS_FOLDER --subject "sks dog"`'


def _refuse_what_is_no_spec(path: Path) -> None:
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder, not a spec",
            f'for a folder of photos say what they show: `cloudbooth launch {_quoted(path)} --subject "sks dog"`',
        )
    if path.suffix.lower() in _PHOTO_SUFFIXES:
        raise UsageError(
            f"{path} is a photo, not a spec",
            f'give the folder with all photos: `cloudbooth launch {_quoted(path.parent)} --subject "sks dog"`',
        )
    if not path.exists():
        beside = sorted(path.parent.glob("*.toml")) if path.parent.is_dir() else []
        close = f"did you mean `{beside[0]}`" if len(beside) == 1 else _INIT_HINT
        raise UsageError(f"there is no spec {path}", close)


def _resolve(raw: dict[str, Any], folder: Path, overrides: Sequence[str], source: str, again: str) -> RunSpec:
    problems: list[Problem] = []
    _place(raw, "output.folder", _find(raw, "output.folder") or "models")
    for key in _PATH_KEYS:
        _absolutize(raw, key, folder)
    for override in overrides:
        problems += _apply(raw, override)
    # Missing sections as empty ones: pydantic then names the missing key and not only its section.
    for section in ("subject", "data"):
        raw.setdefault(section, {})
    problems += [Problem(key, "must be a finite number") for key in _non_finite(raw)]
    try:
        # Through JSON because strict validation of JSON takes a list for a tuple and text for a path,
        # and still refuses "800" for 800.
        spec = RunSpec.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        problems += problems_of(error, _SCHEMA)
    else:
        if not problems:
            return spec
    raise usage_error(source, problems, f"`{again}` checks it again without starting anything")


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
    if not _place(raw, key, value):
        return [Problem(f"--set {override}", "goes through a key that is not a section")]
    if key in _PATH_KEYS:
        _absolutize(raw, key, Path.cwd())
    return []


def _absolutize(raw: dict[str, Any], key: str, folder: Path) -> None:
    value = _find(raw, key)
    if not isinstance(value, str) or not value:
        return
    if key == "data.regularization" and (value == "none" or value.startswith("generate:") or _GIT_URL.match(value)):
        return
    path = Path(value).expanduser()
    if key == "model.base" and not value.startswith(("/", "./", "../", "~")) and not (folder / path).is_dir():
        return  # a hub id or a builtin
    _place(raw, key, os.path.normpath(folder / path))


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
