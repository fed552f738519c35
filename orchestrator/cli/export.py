"""`export`: a run's model in formats that the run was not asked for, on this computer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import cast, get_args

import click

from orchestrator.cli.generate import Teller
from orchestrator.cli.options import json_option, run_argument
from orchestrator.conversion import conversion_of
from orchestrator.errors import UsageError
from orchestrator.preflight import require_new_folder
from orchestrator.sampling_call import Studio
from orchestrator.wiring import connect, wire_up
from providers.installation import installing
from remote_trainer import wire


@click.command(epilog="Example: cloudbooth export my-dog --format single-file --format kohya-lora")
@run_argument
@click.option(
    "--format",
    "formats",
    multiple=True,
    required=True,
    type=click.Choice(get_args(wire.ExportFormat)),
    help="What to write; again for more.",
)
@click.option("--to", "target", metavar="FOLDER", type=click.Path(path_type=Path), help="Else ./RUN-export.")
@json_option
def export(run: str, formats: tuple[str, ...], target: Path | None, as_json: bool) -> int:
    """Write a run's model in other formats.

    \b
    diffusers     a folder that diffusers opens: the base with a LoRA fused into it
    single-file   the same as one .safetensors, for AUTOMATIC1111 and ComfyUI
    ckpt          the same as one .ckpt
    lora          the adapter alone, as diffusers opens it
    kohya-lora    the adapter alone, as AUTOMATIC1111 and ComfyUI open it

    Takes the model that is home, or the newest checkpoint of a run that did not finish. Each file is loaded back and
    compared before it appears. Works on this computer's CPU, in the environment that local runs use, which is built
    when it is missing; nothing is rented.
    """
    wiring = wire_up()
    chosen = cast(tuple[wire.ExportFormat, ...], tuple(dict.fromkeys(formats)))
    wanted = conversion_of(wiring.ledger.run(run), wiring.ledger.artifacts(run), wiring.home.run(run), chosen)
    folder = Path(os.path.abspath((target or Path(f"{run}-export")).expanduser()))
    require_new_folder(folder)
    access = wiring.local_access()
    host = connect(access)
    teller = _Teller(as_json)
    try:
        Studio.on(host, access).convert(wanted, str(folder), teller.saw)
    except UsageError as error:
        if teller.lacks_trainer:
            error.hint = f"or give this installation a trainer: {installing('train')}"
        raise
    finally:
        host.close()
    manifest = wire.Manifest.from_bytes((folder / wire.MANIFEST_NAME).read_bytes())
    files = [str(folder / entry.path) for entry in manifest.files]
    if as_json:
        click.echo(json.dumps({"type": "summary", "run": run, "folder": str(folder), "files": files}))
    else:
        click.echo("\n".join(files))
    return 0


class _Teller(Teller):
    """Also remembers whether it was the environment that failed."""

    lacks_trainer = False

    def saw(self, event: wire.Event) -> None:
        self.lacks_trainer |= isinstance(event, wire.Failed) and event.code == "environment"
        super().saw(event)
