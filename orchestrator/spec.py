"""The spec of a run: one frozen value, checked strictly.

`RunSpec` wraps `remote_trainer.wire.TrainSpec` as it is: pydantic validates the stdlib dataclass in place, so the
ranges of `[train]` are written once. A key that no code reads is refused, never ignored; `steps = "800"` is an error,
not 800. `orchestrator.spec_file` makes specs from TOML files and flags.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_validator, model_validator

from orchestrator.spec_data import Data, NoClassImages, PictureSet, Prompt, Section
from orchestrator.spec_errors import RuleBroken, RulesBroken, Schema, one_of, problems_of, usage_error
from orchestrator.storage.open import address_problem, endpoint_problem
from orchestrator.train_rules import settings_that_disagree
from providers.api import SshAccess
from remote_trainer.wire import EVERY_FORMAT, ExportFormat, TrainSpec

DEFAULT_BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
BUILTIN_RESOLUTION = 64
"""Pixels: what builtin bases are made for, and the default with them."""
_HOST = re.compile(r"[^\s@-][^\s@]*(@[^\s@-][^\s@]*)?")
_PORT_IN_HOST = re.compile(r"((?:[^@]+@)?)(?:([^:\[\]]+)|\[([^\]]+)\]):(\d+)")


# ---- the sections --------------------------------------------------------------------------------------------------


class Subject(Section):
    instance_prompt: Prompt
    """What a picture of the subject is called: `a photo of sks dog`. A photo's caption file wins over it."""
    class_prompt: Prompt | None = None
    """What others of its kind are called: `a photo of a dog`. Needed with class images."""


class Model(Section):
    base: Annotated[str, Field(pattern=r"\S")] = DEFAULT_BASE
    """`builtin:NAME`, an absolute diffusers folder or single file, an address with the hash of a single file, or a hub
    id with optional `@revision`."""
    config: Annotated[str, Field(pattern=r"^(builtin:)?[A-Za-z0-9][\w./@-]*$")] | None = None
    """Whose configuration a single file fits: a hub id or `builtin:NAME`. None: as diffusers decides by its tensors."""


class Ssh(Section):
    host: str
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

    @field_validator("host")
    @classmethod
    def _user_and_host(cls, value: str) -> str:
        if not _HOST.fullmatch(value):
            said = f'must be an alias of ~/.ssh/config, a host name or user@host, is "{value}"'
            raise RuleBroken(said, "--host me@gpu-box")
        if found := _PORT_IN_HOST.fullmatch(value):
            host = found[1] + (found[2] or found[3])
            fix = f"--host {host} --set compute.ssh.port={found[4]}"
            raise RuleBroken(f'"{value}" holds a port, which is compute.ssh.port', fix)
        return value

    @field_validator("python")
    @classmethod
    def _no_tilde(cls, value: str) -> str:
        if value.startswith("~"):
            raise ValueError(f'"{value}" is not expanded on the host: write the absolute path')
        return value

    @property
    def access(self) -> SshAccess:
        user, _, host = self.host.rpartition("@")
        return SshAccess(host, self.port, user or self.user, self.identity_file, self.python, self.workdir)


class Replicate(Section):
    trainer: Annotated[str, Field(pattern=r"\S")] | None = None
    """A trainer of docs/replicate.md or of the config file; None: the one that adapts `model.base`."""
    destination: Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")] | None = None
    """`owner/name` of the model that gets the result as a version; None: the account's own, named as the run."""


class Compute(Section):
    provider: Annotated[str, Field(pattern=r"\S")] = "local"
    """A name under the entry-point group `cloudbooth.providers`; whether it exists is the registry's to say."""
    market: Literal["on-demand", "spot", "spot-then-on-demand"] = "on-demand"
    gpu: tuple[Annotated[str, Field(pattern=r"\S")], ...] = ()
    """In order of preference; empty: anything with `min_vram_gb`."""
    gpu_count: Annotated[int, Field(ge=1, le=8)] = 1
    """GPUs of one machine that train together; each takes `train.batch_size` pictures at a time."""
    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Machines that train together, with `gpu_count` GPUs each. No provider rents several at once yet."""
    min_vram_gb: Annotated[float, Field(ge=0)] = 0.0
    max_price_per_hour: Annotated[float, Field(ge=0)] | None = None
    """USD."""
    disk_gb: Annotated[float, Field(gt=0)] | None = None
    trust: Literal["any", "secure"] = "any"
    allow_cpu: bool = False
    machine: Annotated[str, Field(pattern=r"\S")] | None = None
    """Id of a machine at the provider that somebody keeps: it is used as it stands and left running."""
    volume: str = ""
    """Id of a network volume of the account, for the work folder: it outlives the machines, and with it what later runs
    need again. Empty: the machine's own disk."""
    ssh: Ssh | None = None
    replicate: Replicate | None = None

    @model_validator(mode="after")
    def _ssh_has_a_host(self) -> Self:
        if self.provider == "ssh" and self.ssh is None:
            raise RuleBroken(
                'provider "ssh" needs a host, compute.ssh.host',
                "--host me@gpu-box",
                about=("compute.provider", "compute.ssh"),
            )
        if self.machine is not None and self.provider in ("local", "ssh", "any"):
            raise RuleBroken(
                f'compute.machine is an id at a provider that rents, not at "{self.provider}"', "--on runpod:POD_ID"
            )
        if self.volume and (self.machine is not None or self.provider in ("local", "ssh")):
            has_its_own = f'"{self.provider}"' if self.machine is None else "compute.machine"
            raise RuleBroken(f"compute.volume is for machines to be rented, not for {has_its_own}", "leave it out")
        return self


class Limits(Section):
    max_cost_usd: Annotated[float, Field(ge=0)] = 5.0
    max_hours: Annotated[float, Field(gt=0)] | None = None
    rescue_hours: Annotated[float, Field(ge=0)] = 72.0
    """How long a stopped machine may keep the only copy of a model; what its disk costs is part of the ceiling."""
    keep_minutes: Annotated[float, Field(ge=0)] = 0.0
    """How long a rented machine stays warm for the next run after its model came home, within the ceiling."""
    wait_for_laptop_minutes: Annotated[float, Field(ge=0)] = 60.0
    """How long a rented machine waits at a run's end for a laptop to take what lies nowhere else."""


class Storage(Section):
    url: str | None = None
    """`s3://bucket/prefix` or `file:///folder`; omitted: everything comes over SSH."""
    endpoint_url: str | None = None
    """For S3 that is not AWS: R2, B2, Wasabi, MinIO. When omitted: `AWS_ENDPOINT_URL_S3`, else AWS."""
    keep_last: Annotated[int, Field(ge=1)] = 2
    """How many of the newest checkpoints stay in the store."""
    keep_every: Annotated[int, Field(ge=0)] = 0
    """Steps: checkpoints at a multiple of it stay as well; 0 keeps no others."""
    pod_credentials: bool = False
    """Hands the store's keys to the machine, for stores that cannot presign; presigned URLs are used otherwise."""

    @property
    def filled_by_machine(self) -> str | None:
        """The address, if the machine can upload there by itself; a folder is filled by the laptop."""
        return self.url if self.url is not None and self.url.startswith("s3:") else None

    @field_validator("url")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        if value is not None and (problem := address_problem(value)):
            raise ValueError(problem)
        return value

    @field_validator("endpoint_url")
    @classmethod
    def _a_web_address(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and (wrong := endpoint_problem(value, info.data.get("url"))):
            raise RuleBroken(wrong.words, f"--set storage.endpoint_url={wrong.instead}")
        return value

    @model_validator(mode="after")
    def _nothing_without_an_address(self) -> Self:
        if self.url is None and self != type(self).model_construct():
            raise ValueError("the other keys of [storage] need storage.url, for example s3://bucket/prefix")
        return self


class Output(Section):
    folder: Path = Path("models")
    formats: tuple[ExportFormat, ...] = ()
    """Empty: the first that the method yields (`EVERY_FORMAT`)."""


@dataclass(frozen=True)
class FilledIn:
    """Keys that nobody stated and whose value follows from other keys. No part of what a spec says: specs that differ
    in this alone are equal, and none of it is recorded."""

    keys: frozenset[str] = field(default=frozenset(), compare=False)


class RunSpec(Section):
    _filled_in: FilledIn = PrivateAttr(default=FilledIn())

    name: str
    """Name of the model, and the stem of its files."""
    subject: Subject
    data: Data
    model: Model = Model()
    train: TrainSpec = TrainSpec()
    compute: Compute = Compute()
    limits: Limits = Limits()
    storage: Storage = Storage()
    output: Output = Output()

    @field_validator("name")
    @classmethod
    def _usable_as_file_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?", value):
            raise ValueError(f'must be letters, digits, "-", "_" and "." only, as it names files; try "{slug(value)}"')
        return value

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if rules := list(self._disagreements()):
            raise RulesBroken(rules)
        return self

    def _disagreements(self) -> Iterator[RuleBroken]:
        own = self.compute.provider in ("local", "ssh")
        if self.storage.pod_credentials and not own and self.compute.trust != "secure":
            yield RuleBroken(
                "storage.pod_credentials hands the store's keys to the machine, and a community host is a stranger's",
                '`--set compute.trust="secure"`, or leave pod_credentials out: presigned addresses need no key',
                about=("storage.pod_credentials", "compute.trust", "compute.provider"),
            )
        unnamed = [each for each in self.picture_sets if each.role == "class" and each.prompt is None]
        if unnamed and self.subject.class_prompt is None:
            yield RuleBroken(
                'data.regularization needs subject.class_prompt, for example class_prompt = "a photo of a dog"',
                about=("data.regularization", "data.sets", "data.dataloader", "subject.class_prompt"),
            )
        for disagreement in settings_that_disagree(self.train):
            disagreement.about = ("train",)
            yield disagreement
        if self.train.fsdp and self.compute.gpu_count * self.compute.nodes == 1:
            yield RuleBroken(
                "train.fsdp shares a model out among GPUs, and compute.gpu_count is 1",
                "--set compute.gpu_count=2",
                about=("train.fsdp", "compute.gpu_count", "compute.nodes"),
            )
        applicable = EVERY_FORMAT[self.train.method]
        for chosen in self.output.formats:
            if chosen not in applicable:
                yield RuleBroken(
                    f'output.formats: "{chosen}" does not apply to train.method = "{self.train.method}", '
                    f"which yields {one_of(applicable)}",
                    about=("output.formats", "train.method"),
                )

    @property
    def filled_in(self) -> frozenset[str]:
        """What `spec_file` put in by itself, for the plan to say: `train.resolution`. Empty when read from a record."""
        return self._filled_in.keys

    def with_filled_in(self, *keys: str) -> Self:
        """The same spec, of which `keys` are told as decided and not as stated."""
        copy = self.model_copy()
        copy._filled_in = FilledIn(self.filled_in | set(keys))
        return copy

    @property
    def picture_sets(self) -> tuple[PictureSet, ...]:
        """All that is trained on, in whatever form the spec names it; ids are unique."""
        captions = self.data.captions or "textfile"
        alone = (PictureSet(id="instance", pictures=str(self.data.instance), captions=captions),)
        sets = self.data.sets or alone
        if isinstance(self.data.class_images, NoClassImages):
            return sets
        taken = {each.id for each in sets}
        id_ = next(name for name in ("class", "regularization", "data.regularization") if name not in taken)
        return (*sets, PictureSet(id=id_, role="class", pictures=self.data.regularization))

    def prompt_of(self, pictures: PictureSet) -> str:
        """Of pictures without a caption."""
        own = self.subject.class_prompt if pictures.role == "class" else self.subject.instance_prompt
        return pictures.prompt or own or ""


SCHEMA = Schema.of(RunSpec)
"""Every key a spec may have, for hints."""


def spec_to_json(spec: RunSpec) -> str:
    """For the ledger: `spec_from_json` gives back an equal spec."""
    return spec.model_dump_json()


def spec_from_json(text: str) -> RunSpec:
    """Raises UsageError when the text was written by a version with other keys."""
    try:
        return RunSpec.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise usage_error(
            "the recorded spec", problems_of(error, SCHEMA), "use the version of cloudbooth that began the run"
        ) from None


def slug(text: str) -> str:
    """`text` as a file name: lower-case ASCII words joined by `-`; `model` when nothing is left."""
    words = "-".join(re.findall(r"[a-z0-9_.]+", text.lower()))
    return re.sub(r"^[^a-z0-9]+|[^a-z0-9_-]+$|-+$", "", words[:64]) or "model"
