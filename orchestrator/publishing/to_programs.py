"""Into the models folder of AUTOMATIC1111 or ComfyUI, here or over SSH: each file where the program looks for it."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import UsageError
from orchestrator.finished_model import FinishedModel
from orchestrator.host import Host, HostError
from orchestrator.publishing.targets import ProgramTarget

CHUNK_BYTES = 1 << 20
_RECEIVE = """
import hashlib, os, sys
folder, name, digest = sys.argv[1:4]
folder = os.path.expanduser(folder)
if not os.path.isdir(os.path.dirname(folder)):
    sys.exit("there is no folder " + os.path.dirname(folder))
os.makedirs(folder, exist_ok=True)
part, seen = os.path.join(folder, "." + name + ".part"), hashlib.sha256()
with open(part, "wb") as file:
    while chunk := sys.stdin.buffer.read(1 << 20):
        seen.update(chunk)
        file.write(chunk)
    file.flush()
    os.fsync(file.fileno())
if seen.hexdigest() != digest:
    os.remove(part)
    sys.exit("it arrived damaged")
whole = os.path.join(folder, name)
if os.path.exists(whole):
    with open(whole, "rb") as file:
        known = hashlib.sha256()
        while chunk := file.read(1 << 20):
            known.update(chunk)
    if known.hexdigest() != digest:
        os.remove(part)
        sys.exit("another file of this name lies there: " + whole)
os.replace(part, whole)
print(whole)
"""
_LOOK = """
import os, sys
models = os.path.expanduser(sys.argv[1])
if not os.path.isdir(models):
    root = os.path.dirname(models)
    print(root + (" has no models/" if os.path.isdir(root) else " does not exist"))
"""
_WHICH_FOLDER = "name the folder in which the program is installed: a1111:~/stable-diffusion-webui, comfyui:~/ComfyUI"


@dataclass(frozen=True)
class Placed:
    """A file, and the folder that it goes to."""

    file: Path
    folder: str


def placements(model: FinishedModel, target: ProgramTarget) -> list[Placed]:
    """Adapters to the LoRAs, whole models to the checkpoints, with the `.yaml` that some need beside them. Pure but for
    a look into the model's folder.

    Of two adapters kohya's goes, which every version of both programs reads. Raises UsageError for a model that
    neither program opens, with the command that writes one that they open.
    """
    adapter = model.kohya or model.lora
    placed = [Placed(adapter, target.folder(adapter=True))] if adapter is not None else []
    for single in model.single_files[:1]:
        placed.append(Placed(single, target.folder(adapter=False)))
        if (config := single.with_suffix(".yaml")).exists():
            placed.append(Placed(config, target.folder(adapter=False)))
    if not placed:
        own = f"{target.folder(adapter=False)}/{model.name}"  # both look into subfolders
        to = f" --to {shlex.quote(own)}" if target.host is None else f", then copy it to {target.host}:{own}"
        raise UsageError(
            f"run `{model.name}` has neither a LoRA nor a single file, which is what {target.program} opens",
            f"cloudbooth export {model.name} --format single-file{to}",
        )
    return placed


def require_program(host: Host, python: str, target: ProgramTarget) -> None:
    """Raises UsageError where the program's folder is not there or has no `models`, and HostError as `place`."""
    seen = host.run([python, "-c", _LOOK, target.models])
    if seen.exit_code != 0:
        raise HostError(f"{host.label} cannot be looked at: {seen.stderr.decode(errors='replace').strip()[-200:]}")
    if problem := seen.stdout.decode(errors="replace").strip():
        raise UsageError(problem if target.host is None else f"{problem} on {target.host}", _WHICH_FOLDER)


def place(host: Host, python: str, placed: Placed) -> str:
    """Sends one file and returns its path there; under its name it is whole or not there. Twice is safe.

    Raises HostError: the program's folder must exist, since a mistyped one would be made and never looked into, and
    another file of that name is somebody's model.
    """
    with placed.file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    done = host.send([python, "-c", _RECEIVE, placed.folder, placed.file.name, digest], _chunks(placed.file))
    if done.exit_code != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1] if said else f"exit code {done.exit_code}"
        hint = _WHICH_FOLDER if "no folder" in reason else "publish again, with what lies there moved away"
        raise HostError(f"{host.label} did not take {placed.file.name}: {reason}", hint)
    return done.stdout.decode().strip()


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            yield chunk
