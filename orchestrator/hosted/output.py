"""From a trainer's archive to the folder that a run hands over: one LoRA that diffusers opens, verified and described.

What else the archive holds (captions, configuration, learned embeddings) is kept below `trainer/`, as it came.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from orchestrator.hosted.archive import unpack
from orchestrator.hosted.safetensors_file import DamagedWeights, copy_renamed, read_header
from orchestrator.whole_file import sync_folder
from providers.jobs import Job, JobQuote
from remote_trainer import wire

TRAINER_FOLDER = "trainer"
_PROCESSOR = re.compile(r"(?:unet\.)?(?P<layer>.+)\.processor\.to_(?P<what>q|k|v|out)_lora\.(?P<way>down|up)\.weight")
_FACTOR = {"down": "lora_A", "up": "lora_B"}


def as_diffusers_names(name: str) -> str:
    """A tensor of diffusers' older LoRA files (`….attn1.processor.to_q_lora.down.weight`) as its newer ones call it.

    Any other name stays.
    """
    found = _PROCESSOR.fullmatch(name)
    if found is None:
        return name
    what = "out.0" if found["what"] == "out" else found["what"]
    return f"unet.{found['layer']}.to_{what}.{_FACTOR[found['way']]}.weight"


def write_output(archive: Path, quote: JobQuote, job: Job, name: str, prompt: str, folder: Path) -> wire.Manifest:
    """Unpacks, verifies, renames, and puts everything to `folder`, complete or not at all. Twice is safe.

    Raises UnsafeArchive and DamagedWeights for what cannot be trusted, and OSError.
    """
    prepared = folder.with_name(f".{folder.name}.part")
    unpacked = prepared / TRAINER_FOLDER
    prepared.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(prepared, ignore_errors=True)
    members = unpack(archive, unpacked)
    found = [unpacked / member.path for member in members if member.path.name == quote.weights.lora]
    if not found:
        held = ", ".join(str(member.path) for member in members[:8]) or "nothing"
        raise DamagedWeights(
            f"the archive holds no {quote.weights.lora}, but {held}",
            "the trainer's layout may have changed: `weights` in the config file names the LoRA (docs/replicate.md)",
        )
    lora = prepared / f"{name}.safetensors"
    rename = as_diffusers_names if quote.weights.names == "attention-processors" else _same
    copy_renamed(found[0], lora, rename)
    _require_pairs(lora)
    found[0].unlink()
    record = _record(quote, job, name, prompt)
    (prepared / "training.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    (prepared / "README.md").write_text(_card(quote, job, name, prompt), "utf-8")
    manifest = wire.Manifest(quote.steps, _entries(prepared))
    (prepared / wire.MANIFEST_NAME).write_bytes(manifest.to_bytes())
    shutil.rmtree(folder, ignore_errors=True)
    prepared.replace(folder)
    sync_folder(folder.parent)
    return manifest


def _same(name: str) -> str:
    return name


def _require_pairs(lora: Path) -> None:
    """Every layer has both factors of one rank, where factors are told by name. Raises DamagedWeights."""
    tensors, _, _ = read_header(lora)
    for name, span in tensors.items():
        if name.endswith(".lora_A.weight"):
            other = tensors.get(name.replace(".lora_A.", ".lora_B."))
            if other is None or len(span.shape) < 2 or len(other.shape) < 2 or other.shape[1] != span.shape[0]:
                raise DamagedWeights(f"{lora.name}: the factors of {name.removesuffix('.lora_A.weight')} do not fit")


def _entries(folder: Path) -> tuple[wire.FileEntry, ...]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = []
    for path in files:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        entries.append(wire.FileEntry(path.relative_to(folder).as_posix(), path.stat().st_size, sha256))
    return tuple(entries)


def _record(quote: JobQuote, job: Job, name: str, prompt: str) -> dict[str, Any]:
    return {
        "name": name,
        "base": quote.weights.base,
        "steps": quote.steps,
        "prompt": prompt,
        "settings": {"method": "lora", "steps": quote.steps},
        "trainer": {"provider": quote.provider, "name": quote.trainer, "version": quote.version},
        "inputs": dict(quote.inputs),
        "job": {"id": job.id, "model": job.result, "computed_s": job.computed_s},
    }


def _card(quote: JobQuote, job: Job, name: str, prompt: str) -> str:
    lines = [
        "---",
        f"base_model: {quote.weights.base}",
        f"license: {quote.weights.base_license}",
        f"instance_prompt: {json.dumps(prompt, ensure_ascii=False)}",
        "tags: [text-to-image, dreambooth, diffusers, lora]",
        "---",
        "",
        f"# {name}",
        "",
        f"A LoRA for `{quote.weights.base}`, trained by `{quote.trainer}` (version `{quote.version[:12]}`) in "
        f"{quote.steps} steps.",
        "",
        f"Prompt it was trained with: “{prompt}”",
        "",
        "| file | opens in |",
        "|---|---|",
        f"| `{name}.safetensors` | diffusers: `pipe.load_lora_weights`; ComfyUI, Forge |",
        f"| `{TRAINER_FOLDER}/` | what else the trainer handed out |",
        "",
        *([f"The same model at the service: `{job.result}`", ""] if job.result else []),
        "Everything else is in `training.json`.",
        "",
        f"License: that of the base `{quote.weights.base}`; see its page.",
    ]
    return "\n".join(lines) + "\n"
