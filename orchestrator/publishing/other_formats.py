"""The command that trains the model of a run once more, under another name and in other formats. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.spec import RunSpec
from orchestrator.spec_file import spec_from_photos
from remote_trainer.wire import EVERY_FORMAT, ExportFormat


def launch_for_programs(spec: RunSpec) -> str:
    """In the format that AUTOMATIC1111 and ComfyUI open. A run from photos is stated whole; one of several sets of
    pictures, which flags cannot state, by its file.
    """
    asked: tuple[ExportFormat, ...] = ("lora", "single-file")
    format_ = next(each for each in asked if each in EVERY_FORMAT[spec.train.method])
    name, formats = f"{spec.name}-{format_}", f'output.formats=["{format_}"]'
    output = spec.output.model_copy(update={"formats": (format_,)})
    wanted = spec.model_copy(update={"name": name, "output": output})
    stated = wanted.model_dump(mode="json", exclude_defaults=True, exclude={"name": True, "data": {"instance"}})
    words, flags = spec.subject.instance_prompt.removeprefix("a photo of "), list(_flags(stated))
    try:
        again = spec_from_photos(spec.data.instance, words, (f"name={name}", *flags)) if spec.data.instance else None
    except UsageError:
        again = None
    if again != wanted:
        return f"cloudbooth launch SPEC.toml --name {name} --set {shlex.quote(formats)}"
    sets = [part for flag in flags for part in ("--set", flag)]
    return shlex.join(["cloudbooth", "launch", str(spec.data.instance), "--subject", words, "--name", name, *sets])


def _flags(section: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`key.path=value` of each leaf; JSON is TOML but for null and tables."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _flags(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}={json.dumps(value, ensure_ascii=False)}"
