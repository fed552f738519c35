"""Writes the generated parts of docs/cli.md, docs/events.md and docs/spec.md; `make docs` runs it.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end: NAME -->`; everything else on a page is
written by hand. The sources are the click commands, the dataclasses and enums, and the docstrings below their fields,
which Python itself throws away: they are read from the syntax tree.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator import errors, lifecycle, spec, spec_data
from orchestrator.cli.main import VERBS, cli
from orchestrator.cli.render.run_list import RunView
from orchestrator.cli.render.runs import StatusView
from orchestrator.cli.render.summary import Summary
from orchestrator.market import Listing, Refusal
from orchestrator.plan import Plan
from orchestrator.report.contents import Report
from remote_trainer import wire
from remote_trainer.wire import events, train_spec

DOCS = Path(__file__).parent

MEANINGS = {
    "data.regularization": "Class images: `none`, a folder, `generate:N`, which lets the base make N of them, or a "
    "public git repository, `https://…#FOLDER`, from which the machine fetches them.",
    "data.ship_originals": "Photos travel with their own pixels, without metadata, and the machine scales them.",
    "model.base": "`builtin:toybox` or `builtin:tiny`, a hub id with optional `@revision`, a diffusers folder, a "
    "single file, or `https://…/model.safetensors#sha256=…`.",
    "model.config": "Hub id of the model that a single file has the shape of. When omitted, diffusers chooses by its "
    "tensors.",
    "train.method": "`full` trains every weight of the denoiser, `lora` matrices beside them, `dora` lengths too.",
    "train.batch_size": "Pictures at a time.",
    "train.gradient_accumulation": "Batches whose gradients are summed up before one optimizer step.",
    "train.learning_rate": "When omitted, the plan picks one that fits method and base, and says why.",
    "train.lr_schedule": "How the rate goes from `learning_rate` to `lr_end`.",
    "train.lr_warmup_steps": "Steps in which the rate rises from 0.",
    "train.weight_decay": "How fast weights are drawn to 0, times the learning rate, in every optimizer.",
    "train.min_snr_gamma": "Weights losses by min(SNR, gamma)/SNR (arXiv 2303.09556); omitted: all timesteps alike.",
    "train.debiased_estimation": "Weights losses by 1/sqrt(SNR) (arXiv 2310.08442). Not with `min_snr_gamma`.",
    "train.ema_decay": "Keeps a moving average of the weights, which is evaluated, shown and exported; omitted: none.",
    "train.max_grad_norm": "Longer gradients are scaled down to this length.",
    "train.fsdp": "Shares weights, gradients and optimizer state out among the GPUs; `full` with `adamw` alone.",
    "train.seed": "Every random number of a run follows from it.",
    "train.precision": "`auto` is decided on the machine, which says what and why.",
    "train.text_encoder_learning_rate": "Stable Diffusion and SDXL: trains the text encoders too, at this rate; half "
    "of `learning_rate` or less is usual. Omitted: they stay as they are, and prompts are encoded once.",
    "train.flow_density": "Bases that flow (SD3, Flux): how often each noise level is trained; `logit-normal` and "
    "`mode` favor the middle, `cosmap` does as a cosine schedule.",
    "train.flow_shift": "Bases that flow: moves the noise levels towards noise. Omitted: as the base's scheduler does.",
    "train.prior_loss_weight": "Factor of the loss on class images; without them it does nothing.",
    "train.lora_alpha": "When omitted, equal to the rank, so that the update is not rescaled.",
    "train.lora_rank": 'Width of the added matrices. Not with `method = "full"`.',
    "train.lora_targets": "Ends of the names of the linear layers that get an adapter, such as `to_q`. Empty: what is "
    "usual for the base ([families](families.md)).",
    "train.base_precision": "SD 3 and Flux: how frozen weights are kept beside an adapter. `auto`: bfloat16 on a GPU; "
    "`int8` and `nf4` take half and a quarter of that, and a step takes longer.",
    "train.checkpoint_every": "Steps. When omitted: 100, or what suits the risk of losing the machine.",
    "train.validation_prompts": "What pictures are made of; when omitted, the instance and class prompts.",
    "train.validation_inference_steps": "Denoising steps of a validation picture.",
    "compute.replicate.trainer": "A trainer of docs/replicate.md or of the config file. When omitted, the one that "
    "adapts `model.base`.",
    "compute.replicate.destination": "`owner/name` of the model that gets the result as a version. When omitted, the "
    "account's own, named as the run.",
    "train.validation_guidance_scale": "Of a second pass without prompt, 1 means none; or what Flux.1 is told. "
    "Omitted: what is usual for the base.",
    "compute.ssh.port": "When omitted: that of ssh_config, else 22.",
    "compute.ssh.user": "The same as `user@` in `host`.",
    "compute.ssh.identity_file": "Private key; when omitted, those of ssh_config and the agent.",
    "compute.ssh.python": "Python 3.9 or later on the host.",
    "compute.provider": "`local` (this machine), `ssh`, `runpod`, `vast`, a plug-in, or `any` of those that rent.",
    "compute.gpu": "Rented machines only. In order of preference; empty: anything with `min_vram_gb`.",
    "compute.gpu_count": "GPUs of one machine that train together; each takes `train.batch_size` pictures at a time.",
    "compute.nodes": "Machines that train together; the trainer knows how, and no provider rents several at once yet.",
    "compute.max_price_per_hour": "USD. Rented machines only.",
    "compute.market": "Rented machines only.",
    "compute.min_vram_gb": "Rented machines only.",
    "compute.disk_gb": "Rented machines only.",
    "compute.trust": "Rented machines only: `secure` leaves out machines of private persons.",
    "compute.machine": "Id of a machine at the provider that you keep yourself: used as it stands, left running.",
    "compute.volume": "Id of a network volume of the account, for the work folder: base and environment stay there for "
    "later runs ([RunPod](runpod.md#a-network-volume)).",
    "compute.allow_cpu": "Rented machines only: accept one whose GPU does not work.",
    "limits.max_cost_usd": "Rented machines only. The ceiling of a run: all its attempts and machines together.",
    "limits.max_hours": "Time on machines, all of an attempt together; then the run ends with a checkpoint.",
    "limits.rescue_hours": "Rented machines only. How long a stopped one may keep the only copy of a model; what its "
    "disk costs meanwhile is part of the ceiling.",
    "limits.keep_minutes": "How long a rented machine stays warm for the next run after its model came home.",
    "limits.wait_for_laptop_minutes": "Rented machines only. How long one waits at the end of a run for a laptop to "
    "take what lies nowhere else.",
    "output.formats": (
        "Empty: `lora` or `diffusers`, by method. For AUTOMATIC1111 and ComfyUI: `single-file`, `ckpt`, and for a LoRA "
        "`kohya-lora`. A LoRA can have all: it is fused into what holds a whole model."
    ),
    "output.folder": "The model is put into a folder of the run's name in it.",
}
"""For keys whose field has no docstring, or one that speaks to readers of the code."""

LISTS = {"data.sets"}
"""Sections of which a spec may have several."""

EVENT_MEANINGS = {
    "phase": "What the host is at now.",
    "step": "An optimizer step; not every one is told.",
    "sample": "A validation picture lies on the host's disk.",
    "checkpoint": "A checkpoint stands complete on the host's disk.",
    "uploaded": "A checkpoint or the model is whole in the store, and was verified there.",
    "warning": "Something to know that ends nothing.",
    "heartbeat": "The supervisor lives; every 15 s.",
}


# ---- what the code says about itself -------------------------------------------------------------------------------


def field_docs(module: ModuleType) -> dict[str, dict[str, str]]:
    """Class → field → the docstring below it, as one line."""
    docs: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef):
            docs[node.name] = dict(_field_docs(node))
    return docs


def _field_docs(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    name = None
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and name is not None:
            yield name, _one_line(str(statement.value.value))
            name = None
        else:
            name = None


def type_words(kind: Any) -> str:
    """A type as a user writes its values: `integer ≥ 1`, `"a" or "b"`, `list of texts`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        limits = {name: limit for rule in args[1:] for name, limit in _limits(rule)}
        return type_words(args[0]) + _limit_words(limits)
    if origin in (typing.Union, UnionType):
        return " or ".join(type_words(arg) for arg in args if arg is not NoneType)
    if origin is Literal:
        return " or ".join(f'`"{arg}"`' for arg in args)
    if origin is tuple:
        item = type_words(args[0])
        return "list of texts" if item == "text" else f"list of {item}"
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return f"`{kind.__name__}`"
    return {bool: "true or false", int: "integer", float: "number", str: "text", Path: "path"}.get(kind, "object")


def _limits(rule: Any) -> Iterator[tuple[str, float]]:
    if isinstance(rule, FieldInfo):
        for inner in rule.metadata:
            yield from _limits(inner)
        return
    for name in ("ge", "gt", "le", "multiple_of"):
        limit = getattr(rule, name, None)
        if limit is not None:
            yield name, limit


def _limit_words(limits: dict[str, float]) -> str:
    words = ""
    if "ge" in limits and "le" in limits:
        words = f" from {limits['ge']:g} to {limits['le']:g}"
    elif "ge" in limits:
        words = f" ≥ {limits['ge']:g}"
    elif "gt" in limits:
        words = f" > {limits['gt']:g}"
    return words + (f", multiple of {limits['multiple_of']:g}" if "multiple_of" in limits else "")


# ---- the spec ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Key:
    path: str
    type: str
    default: str
    meaning: str


def spec_keys() -> list[Key]:
    """Every key a spec may have. Raises KeyError for one without a meaning."""
    docs = field_docs(spec) | field_docs(spec_data) | field_docs(train_spec)
    return list(_keys(spec.RunSpec, "", docs))


def _keys(cls: Any, prefix: str, docs: dict[str, dict[str, str]]) -> Iterator[Key]:
    hints = typing.get_type_hints(cls, include_extras=True)
    for name, default in _defaults(cls):
        path, kind = f"{prefix}{name}", hints[name]
        inner = next((arg for arg in (kind, *typing.get_args(kind)) if _is_section(arg)), None)
        if inner is not None:
            yield from _keys(inner, f"{path}.", docs)
            continue
        meaning = MEANINGS.get(path) or docs[cls.__name__][name]
        yield Key(path, type_words(kind), default, meaning)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and (issubclass(kind, BaseModel) or kind is wire.TrainSpec)


def _defaults(cls: Any) -> Iterator[tuple[str, str]]:
    if dataclasses.is_dataclass(cls):
        for field in dataclasses.fields(cls):
            yield field.name, _default_words(field.default)
    else:
        for name, info in cls.model_fields.items():
            yield name, _required_words(cls, name) if info.is_required() else _default_words(info.default)


def _required_words(cls: Any, name: str) -> str:
    """`load_spec` fills the name in."""
    return "the file's stem" if (cls, name) == (spec.RunSpec, "name") else "**required**"


def _default_words(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (str, Path)):
        return f'`"{value}"`'
    if value == ():
        return "`[]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def spec_table() -> str:
    rows: list[str] = []
    section = None
    for key in spec_keys():
        head, _, leaf = key.path.rpartition(".")
        if head != section:
            section = head
            title = _section_title(head)
            rows += ["", title, "", "| key | type | default | meaning |", "|---|---|---|---|"]
        rows.append(f"| `{leaf}` | {key.type} | {key.default} | {_cell(key.meaning)} |")
    return "\n".join(rows).strip()


def _section_title(head: str) -> str:
    if not head:
        return "### Top level"
    return f"### `[[{head}]]`" if head in LISTS else f"### `[{head}]`"


# ---- events --------------------------------------------------------------------------------------------------------


def event_table() -> str:
    docs = field_docs(events)
    rows = ["| `type` | fields | meaning |", "|---|---|---|"]
    for cls in typing.get_args(wire.Event):
        if cls is wire.Unknown:
            continue
        hints = typing.get_type_hints(cls, include_extras=True)
        fields = []
        for field in dataclasses.fields(cls):
            optional = "" if field.default is dataclasses.MISSING else ", optional"
            said = docs[cls.__name__].get(field.name)
            fields.append(f"`{field.name}`: {type_words(hints[field.name])}{optional}" + (f". {said}" if said else ""))
        rows.append(
            f"| `{cls.TYPE}` | {_cell('<br>'.join(fields))} | {_cell(_class_doc(cls) or EVENT_MEANINGS[cls.TYPE])} |"
        )
    return "\n".join(rows)


def failure_codes() -> str:
    return ", ".join(f"`{code}`" for code in typing.get_args(wire.FailureCode))


def _class_doc(cls: Any) -> str:
    """Empty where dataclass made the docstring up: it then repeats the fields."""
    doc = _one_line(cls.__doc__ or "")
    return "" if doc.startswith(f"{cls.__name__}(") else doc


# ---- the command line ----------------------------------------------------------------------------------------------


def verbs() -> str:
    parts: list[str] = []
    for name in VERBS:
        context = click.Context(cli, info_name="cloudbooth", **cli.context_settings)
        command = cli.get_command(context, name)
        assert command is not None
        parts += _help(command, name, name, context)
    return "\n\n".join(parts)


def _help(command: click.Command, name: str, title: str, parent: click.Context) -> Iterator[str]:
    """The verb's own, and below it that of its own verbs."""
    with click.Context(command, info_name=name, parent=parent, max_content_width=90, terminal_width=90) as context:
        yield f"### `{title}`\n\n```text\n{command.get_help(context)}\n```"
        if isinstance(command, click.Group):
            for inner in command.list_commands(context):
                found = command.get_command(context, inner)
                assert found is not None
                yield from _help(found, inner, f"{title} {inner}", context)


def exit_codes() -> str:
    docs = field_docs(errors)["ExitCode"]
    rows = ["| code | name | when |", "|---|---|---|"]
    rows += [
        f"| {code.value} | `{code.name}` | {_cell(docs.get(code.name, 'It worked.'))} |" for code in errors.ExitCode
    ]
    return "\n".join(rows)


def end_reasons() -> str:
    docs = field_docs(lifecycle)["EndReason"]
    rows = ["| reason | exit code | meaning |", "|---|---|---|"]
    for reason in lifecycle.EndReason:
        meaning = docs.get(reason.name) or END_MEANINGS[reason]
        rows.append(f"| `{reason.value}` | {int(lifecycle.EXIT_CODES[reason])} | {_cell(meaning)} |")
    return "\n".join(rows)


def json_keys() -> str:
    """The objects whose keys are those of a dataclass."""
    rows = ["| `type` | printed by | keys besides `type` |", "|---|---|---|"]
    lines: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
        ("plan", "`plan`, `launch`, first", (Plan,)),
        ("listing", "`gpus`, one a provider and GPU", (Listing,)),
        ("refusal", "`gpus`, one a provider that did not answer", (Refusal,)),
        ("run", "`ps`, one a run", (RunView,)),
        ("summary", "`status`, its only line", (RunView, StatusView)),
        ("summary", "`report`, its only line", (Report,)),
        ("summary", "`launch`, `attach`, `resume`, `stop`, `down`, last", (Summary,)),
    )
    for kind, printed_by, classes in lines:
        keys = [field.name for cls in classes for field in dataclasses.fields(cls)]
        keys += ["base_for_job"] if kind == "plan" else []
        rows.append(f"| `{kind}` | {printed_by} | {', '.join(f'`{key}`' for key in keys)} |")
    return "\n".join(rows)


END_MEANINGS: dict[Enum, str] = {
    lifecycle.EndReason.DONE: "The model is on the laptop, every file verified.",
    lifecycle.EndReason.TRAINING_FAILED: "The trainer gave up; the `failed` event says why.",
}


# ---- pages ---------------------------------------------------------------------------------------------------------

PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "verbs": ("cli.md", verbs),
    "exit-codes": ("cli.md", exit_codes),
    "end-reasons": ("cli.md", end_reasons),
    "json-keys": ("cli.md", json_keys),
    "events": ("events.md", event_table),
    "failure-codes": ("events.md", failure_codes),
    "spec": ("spec.md", spec_table),
}
"""Name of a part → (its page, what writes it)."""


def refreshed(page: Path) -> str:
    """The page with its generated parts as they should be now. Raises ValueError for a part without markers."""
    text = page.read_text("utf-8")
    for name, (file, write) in PARTS.items():
        if file == page.name:
            pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end: {name} -->)"
            body = write()

            def filled(match: re.Match[str], body: str = body) -> str:
                return f"{match[1]}{body}\n{match[2]}"

            text, count = re.subn(pattern, filled, text, flags=re.DOTALL)
            if count != 1:
                raise ValueError(f"{page} has {count} places for the part {name}")
    return text


def pages() -> list[Path]:
    return sorted({DOCS / file for file, _ in PARTS.values()})


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def main() -> int:
    for page in pages():
        text = refreshed(page)
        if text != page.read_text("utf-8"):
            page.write_text(text, "utf-8")
            print(f"wrote {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
