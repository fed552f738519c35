"""The model that a finished run has brought home: which of its files is what, and which base it belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import RunConflict, UsageError
from orchestrator.families import USUAL_GUIDANCE, family_of
from orchestrator.ledger import Ledger
from orchestrator.lifecycle import State
from orchestrator.spec import RunSpec, spec_from_json
from orchestrator.understanding import understood
from remote_trainer import wire

RECORD = "training.json"
_WEIGHTS = frozenset({".safetensors", ".ckpt", ".bin"})


@dataclass(frozen=True)
class FinishedModel:
    name: str
    folder: Path
    base: str
    """As a host can open it: a hub id, `builtin:NAME`, an absolute path, an address."""
    base_config: str | None
    kind: wire.ModelKind
    path: Path
    """Of the file or folder that shows the model best: the adapter alone where there is one."""
    kohya: Path | None
    single_files: tuple[Path, ...]
    """`.safetensors` first."""
    diffusers: Path | None
    prompt: str
    resolution: int | None
    method: str
    hosted: str
    """What a service calls the same model (`owner/name:version`); empty when none has it."""
    step: int = 0
    """Up to which it was trained: the run's last, or its best."""
    guidance: float = USUAL_GUIDANCE
    """That of the run's own pictures, or usual for its base."""

    @property
    def lora(self) -> Path | None:
        return self.path if self.kind == "lora" else None


def finished_model(ledger: Ledger, run_name: str) -> FinishedModel:
    """Raises UsageError for an unknown run and RunConflict for one whose model is not here."""
    run = ledger.run(run_name)
    folders = [Path(artifact.folder) for artifact in ledger.artifacts(run_name) if artifact.kind == "output"]
    if not folders:
        verb = "resume" if run.state is State.ENDED else "attach"
        raise RunConflict(
            f"run `{run_name}` has no model yet: it is {_standing(run.state, run.reason)}",
            f"cloudbooth {verb} {run_name}",
        )
    if not folders[-1].is_dir():
        raise RunConflict(
            f"the model of run `{run_name}` is not in {folders[-1]} any more",
            f"put it back, or fetch it again with `cloudbooth pull {run_name}` where object storage has it",
        )
    return model_in(folders[-1], spec_from_json(run.spec_json))


def model_in(folder: Path, spec: RunSpec) -> FinishedModel:
    """Raises UsageError for a folder that holds no model or not all of it, and HostError for one of a later version."""
    with understood(str(folder / wire.MANIFEST_NAME)):
        manifest = wire.Manifest.from_bytes(_content(folder / wire.MANIFEST_NAME))
    _require_files(folder, manifest)
    names = [entry.path for entry in manifest.files if "/" not in entry.path]
    diffusers = folder / "diffusers" if any(e.path.startswith("diffusers/") for e in manifest.files) else None
    kohya = next((folder / name for name in names if name.endswith("-kohya.safetensors")), None)
    lora = next((folder / name for name in names if name == f"{spec.name}.safetensors"), None)
    singles = [
        folder / name
        for name in sorted(names, key=lambda name: name.endswith(".ckpt"))
        if name.startswith(f"{spec.name}_") and name.endswith((".safetensors", ".ckpt"))
    ]
    record = _record(folder)
    kind: wire.ModelKind
    if adapter := lora or kohya:
        kind, path = "lora", adapter
    elif diffusers is not None:
        kind, path = "diffusers", diffusers
    elif singles:
        kind, path = "single-file", singles[0]
    else:
        raise UsageError(f"{folder} holds no model that can be opened", f"it holds {', '.join(names) or 'nothing'}")
    hosted = str(record.get("job", {}).get("model", ""))
    trained_elsewhere = bool(record.get("trainer"))
    settings = record.get("settings", {})
    base = str(record["base"]) if trained_elsewhere else _openable(spec, str(record.get("base", "")))
    return FinishedModel(
        name=spec.name,
        folder=folder,
        base=base,
        base_config=None if trained_elsewhere else spec.model.config,
        kind=kind,
        path=path,
        kohya=kohya,
        single_files=tuple(singles),
        diffusers=diffusers,
        prompt=spec.subject.instance_prompt,
        resolution=settings.get("resolution"),
        method=str(settings.get("method", spec.train.method)),
        hosted=hosted,
        step=int(record.get("exported_step") or manifest.step),
        guidance=_guidance(spec, settings, base),
    )


def _guidance(spec: RunSpec, settings: Mapping[str, Any], base: str) -> float:
    recorded = settings.get("validation_guidance_scale")
    if isinstance(recorded, int | float):
        return float(recorded)
    stated = spec.train.validation_guidance_scale
    return family_of(base).guidance if stated is None else stated


def _require_files(folder: Path, manifest: wire.Manifest) -> None:
    """By their lengths: what somebody has removed or cut is no model to hand on. Notes may be changed."""
    for entry in manifest.files:
        file = folder / entry.path
        if not file.is_file():
            raise UsageError(
                f"{folder} is not whole: {entry.path} is missing", "put it back from where it was moved to"
            )
        if file.suffix in _WEIGHTS and file.stat().st_size != entry.bytes:
            raise UsageError(
                f"{folder} is not whole: {entry.path} has {file.stat().st_size} bytes, and had {entry.bytes}",
                "put back the file that the run brought home",
            )


def _openable(spec: RunSpec, recorded: str) -> str:
    """The record pins a hub's commit, and says of what lies on a disk only what it was."""
    return spec.model.base if not recorded or recorded.startswith(("folder:", "file:")) else recorded


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise UsageError(f"{path.parent} holds no finished model: {path.name} is missing") from None


def _record(folder: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        record = json.loads((folder / RECORD).read_bytes())
        if isinstance(record, dict):
            return record
    return {}


def _standing(state: State, reason: object) -> str:
    return state.value if reason is None else str(getattr(reason, "value", reason))
