"""`publish`: a run's model to storage, Hugging Face, Replicate, or the folder of a program that makes pictures."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

import click

from orchestrator.base_model import DEFAULT_ENDPOINT
from orchestrator.cli.options import json_option, run_argument
from orchestrator.cli.render.events import volume
from orchestrator.errors import UsageError
from orchestrator.finished_model import FinishedModel, finished_model
from orchestrator.publishing.cog_folder import push_commands, write_cog_folder
from orchestrator.publishing.lora_url import official_model, prediction_command
from orchestrator.publishing.targets import (
    CogTarget,
    HubTarget,
    LoraUrlTarget,
    ProgramTarget,
    StoreTarget,
    parse_target,
)
from orchestrator.publishing.to_hub import publish_to_hub, write_token
from orchestrator.publishing.to_programs import place, placements, require_program
from orchestrator.publishing.to_store import lend_file, publish_to_store
from orchestrator.spec import RunSpec, spec_from_json
from orchestrator.storage.open import open_store
from orchestrator.wiring import Wiring, connect, store_of, wire_up
from providers.api import SshAccess


@dataclass(frozen=True)
class Published:
    """What `publish` has to say; the keys of its JSON summary."""

    where: str
    files: tuple[str, ...]
    next: tuple[str, ...] = ()
    """Commands for a person, in order."""
    notes: tuple[str, ...] = field(default=())


@click.command(epilog="Example: cloudbooth publish my-dog comfyui:me@gpu-box:ComfyUI")
@run_argument
@click.argument("target", metavar="TARGET")
@click.option("--public", is_flag=True, help="Hugging Face: for everybody to see. Private otherwise.")
@click.option("--to", "folder", metavar="FOLDER", type=click.Path(path_type=Path), help="Replicate: else ./RUN-cog.")
@click.option("--endpoint-url", metavar="URL", help="Of an S3 store that is not AWS; else AWS_ENDPOINT_URL_S3.")
@json_option
def publish(run: str, target: str, public: bool, folder: Path | None, endpoint_url: str | None, as_json: bool) -> int:
    """Take a finished run's model elsewhere.

    \b
    TARGET is one of
      s3://bucket/prefix, FOLDER   all files, the manifest last
      hf, hf:OWNER/NAME            a repository at Hugging Face, private unless --public
      replicate-lora               an address for Replicate's official LoRA models
      replicate:OWNER/NAME         a folder for cog, and the commands that push it
      a1111:FOLDER, comfyui:FOLDER the program's own subfolders; FOLDER may be [USER@]HOST:FOLDER
    """
    wiring = wire_up()
    wanted = parse_target(target)
    model = finished_model(wiring.ledger, run)
    spec = spec_from_json(wiring.ledger.run(run).spec_json)
    say = _Sayer(as_json)
    match wanted:
        case StoreTarget(url):
            store = open_store(url, endpoint_url)
            published = Published(store.url, tuple(publish_to_store(store, model, say.file)))
        case HubTarget(repo):
            published = _to_hub(model, repo, public, say)
        case CogTarget(name):
            published = _to_cog(model, name, folder or Path.cwd() / f"{run}-cog")
        case LoraUrlTarget():
            published = _as_lora_url(model, spec, say)
        case ProgramTarget():
            published = _to_program(wiring, model, wanted, say)
        case _:
            assert_never(wanted)
    return _tell(published, say.said, as_json)


def _to_hub(model: FinishedModel, repo: str, public: bool, say: _Sayer) -> Published:
    token = write_token(os.environ)
    endpoint = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    done = publish_to_hub(model, repo, public=public, token=token, endpoint=endpoint, told=say.note)
    was = "private" if done.private else "public"
    notes = () if done.private != public else (f"{done.repo} was {was} before, and stays so",)
    return Published(done.url, done.files, notes=notes)


def _to_cog(model: FinishedModel, name: str, target: Path) -> Published:
    write_cog_folder(model, name, target)
    files = sorted(str(path) for path in target.rglob("*") if path.is_file())
    return Published(str(target), tuple(files), tuple(push_commands(name, target)))


def _as_lora_url(model: FinishedModel, spec: RunSpec, say: _Sayer) -> Published:
    """One that was trained at Replicate has an address there already."""
    runner = official_model(model)
    if model.hosted:
        return Published(model.hosted, (), (prediction_command(runner, model.hosted.partition(":")[0], model),))
    store = store_of(spec)
    if store is None or model.lora is None:
        raise UsageError(
            f"run `{model.name}` has no storage from which its LoRA could be lent",
            f"`cloudbooth publish {model.name} hf:me/{model.name} --public`, then lora_weights is "
            f"huggingface.co/me/{model.name}/{model.path.name}",
        )
    url, lifetime_s = lend_file(store, model.lora, model.name, say.file)
    note = f"the address is good for {lifetime_s / 86400:.1f} days, for whoever has it"
    return Published(
        store.url, (f"{model.name}/{model.lora.name}",), (prediction_command(runner, url, model),), (note,)
    )


def _to_program(wiring: Wiring, model: FinishedModel, target: ProgramTarget, say: _Sayer) -> Published:
    access = wiring.local_access() if target.host is None else _ssh(target.host)
    host = connect(access)
    try:
        require_program(host, access.python, target)
        there = []
        for placed in placements(model, target):
            say.file(placed.file.name, placed.file.stat().st_size)
            there.append(place(host, access.python, placed))
    finally:
        host.close()
    return Published(host.label, tuple(there))


def _ssh(host: str) -> SshAccess:
    user, _, name = host.rpartition("@")
    return SshAccess(name, user=user or None)


class _Sayer:
    """Progress on stderr for people, as lines of JSON for others."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self.said = set[str]()
        """Files that a person has read of already."""

    def file(self, name: str, size: int) -> None:
        self.said.add(name)
        if self._as_json:
            click.echo(json.dumps({"type": "transfer", "what": name, "total_bytes": size}))
        else:
            click.echo(f"{name} ({volume(size)})", err=True)

    def note(self, text: str) -> None:
        click.echo(json.dumps({"type": "note", "text": text}) if self._as_json else text, err=not self._as_json)


def _tell(published: Published, said: set[str], as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps({"type": "summary", **vars(published)}))
        return 0
    click.echo(f"published: {published.where}")
    for file in published.files:
        if file not in said:
            click.echo(f"  {file}")
    for note in published.notes:
        click.echo(f"note: {note}", err=True)
    if published.next:
        click.echo("\nnext:")
        for command in published.next:
            click.echo(f"  {command}")
    return 0
