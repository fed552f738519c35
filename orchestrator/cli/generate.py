"""`generate`: pictures from a trained model, where its weights are cheapest to reach."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import click

from orchestrator.base_model import shipped_folder
from orchestrator.cli.options import json_option, run_argument
from orchestrator.cli.render.events import describe
from orchestrator.errors import RunConflict, UsageError
from orchestrator.finished_model import FinishedModel, finished_model
from orchestrator.hosted.predicting import predict_pictures
from orchestrator.lifecycle import State
from orchestrator.phases.context import RunContext
from orchestrator.progress import Progress
from orchestrator.sampling_call import Studio
from orchestrator.spec import RunSpec, spec_from_json
from orchestrator.wiring import Wiring, connect, wire_up
from providers.api import Access, ThisMachine
from remote_trainer import wire

WHERE = ("auto", "here", "machine", "replicate")


@click.command(epilog='Example: cloudbooth generate my-dog "a photo of sks dog on the moon" --compare')
@run_argument
@click.argument("prompt", metavar="PROMPT")
@click.option("--count", type=click.IntRange(1, 64), default=4, show_default=True, help="How many, at seeds in a row.")
@click.option("--seed", type=click.IntRange(0), default=42, show_default=True, help="Of the first picture.")
@click.option("--size", metavar="WxH", help="Pixels, 768x512; when omitted, the size of the training.")
@click.option("--negative", default="", metavar="TEXT", help="What the pictures should not show.")
@click.option("--guidance", type=click.FloatRange(0), metavar="G", help="How closely to keep to the prompt.")
@click.option("--steps", type=click.IntRange(1, 1000), metavar="N", help="Denoising steps.")
@click.option("--sampler", type=click.Choice(get_args(wire.Sampler)), help="When omitted, the base's own.")
@click.option("--compare", is_flag=True, help="The base's pictures of the same seeds beside them.")
@click.option(
    "--where",
    type=click.Choice(WHERE),
    default="auto",
    show_default=True,
    help="On this computer, on the machine that the run keeps, or at Replicate.",
)
@click.option(
    "--to", "target", metavar="FOLDER", type=click.Path(path_type=Path), help="Else ./RUN-pictures/001, 002 …"
)
@json_option
def generate(
    run: str,
    prompt: str,
    count: int,
    seed: int,
    size: str | None,
    negative: str,
    guidance: float | None,
    steps: int | None,
    sampler: wire.Sampler | None,
    compare: bool,
    where: str,
    target: Path | None,
    as_json: bool,
) -> int:
    """Make pictures with a run's model, and a grid of them.

    Without --where: on the machine that the run keeps, if it keeps one; at Replicate, if the run trained there; else on
    this computer, whose trainer environment is built when it is missing. Each PNG carries its settings as
    AUTOMATIC1111 reads them.
    """
    wiring = wire_up()
    record = wiring.ledger.run(run)
    spec = spec_from_json(record.spec_json)
    model = finished_model(wiring.ledger, run)
    place = _place(where, model, kept=record.state is State.KEEPING)
    width, height = _size(size, model)
    folder = target or _fresh_folder(run)
    job = wire.PictureJob(
        name=model.name,
        base=model.base,
        model=str(model.path),
        kind=model.kind,
        prompt=prompt,
        negative=negative,
        count=count,
        seed=seed,
        width=width,
        height=height,
        steps=steps,
        guidance=guidance_of(guidance, spec),
        sampler=sampler,
        compare=compare,
        base_config=model.base_config,
    )
    teller = _Teller(as_json)
    match place:
        case "replicate":
            made = predict_pictures(wiring, spec, model, job, folder, teller.note)
        case "machine":
            made = _on_kept_machine(wiring, run, job, folder, teller)
        case _:
            made = _here(wiring, job, folder, teller)
    return _tell(folder, made, place, as_json)


def _place(where: str, model: FinishedModel, *, kept: bool) -> str:
    if where == "machine" and not kept:
        raise RunConflict(f"run `{model.name}` keeps no machine", "`launch --keep 30m` makes a run do so; --where here")
    if where == "replicate" and not model.hosted:
        raise RunConflict(
            f"run `{model.name}` was not trained at Replicate, so the model is not there",
            f"`cloudbooth publish {model.name} replicate` says how to bring it there; --where here",
        )
    if where != "auto":
        return where
    return "machine" if kept else "replicate" if model.hosted else "here"


def _size(text: str | None, model: FinishedModel) -> tuple[int | None, int | None]:
    if text is None:
        return model.resolution, model.resolution
    found = re.fullmatch(r"(\d{2,4})[x×](\d{2,4})", text.strip())
    if found is None:
        raise UsageError(f'--size takes width and height, is "{text}"', "--size 768x512")
    sides = int(found[1]), int(found[2])
    for side in sides:
        if side % 8 or not 64 <= side <= 4096:
            raise UsageError(f"a side of {side} pixels cannot be made", f"--size {_near(sides[0])}x{_near(sides[1])}")
    return sides


def guidance_of(asked: float | None, spec: RunSpec) -> float | None:
    """What the spec says of the run's own pictures holds for these; None leaves it to the base's pipeline."""
    return asked if asked is not None else spec.train.validation_guidance_scale


def _near(side: int) -> int:
    return min(4096, max(64, round(side / 8) * 8))


def _fresh_folder(run: str) -> Path:
    parent = Path.cwd() / f"{run}-pictures"
    numbers = [int(path.name) for path in parent.glob("[0-9]*") if path.name.isdigit()] if parent.is_dir() else []
    return parent / f"{max(numbers, default=0) + 1:03d}"


def _here(wiring: Wiring, job: wire.PictureJob, folder: Path, teller: _Teller) -> list[wire.FileEntry]:
    access = wiring.local_access()
    host = connect(access)
    try:
        job = replace(job, base=base_on(access, job, ""))
        return Studio.on(host, access).make(job, str(folder.absolute()), teller.saw)
    finally:
        host.close()


def _on_kept_machine(
    wiring: Wiring, run: str, job: wire.PictureJob, folder: Path, teller: _Teller
) -> list[wire.FileEntry]:
    """The model lies there still: nothing is sent but the prompt."""
    context: RunContext = wiring.context(run, 0, teller)
    access = context.access()
    if access is None:
        raise RunConflict("the provider does not know where the kept machine answers", f"cloudbooth status {run}")
    host = connect(access)
    try:
        studio = Studio.on(host, access)
        run_folder = f"{studio.workdir}/runs/{context.folder_name}"
        model = f"{run_folder}/{wire.OUTPUT_FOLDER}/{Path(job.model).relative_to(context.output_folder)}"
        out = f"{run_folder}/generated/{int(wiring.clock.now())}"
        there = replace(
            job, model=model, base=base_on(access, job, studio.workdir), allow_cpu=context.spec.compute.allow_cpu
        )
        made = studio.make(there, out, teller.saw)
        studio.fetch(out, made, folder)
        return made
    finally:
        host.close()


def base_on(access: Access, job: wire.PictureJob, workdir: str) -> str:
    """What the trainer there opens the base by. One that ships with this program was sent to a machine by its run."""
    if not job.needs_base:
        return job.base
    here = isinstance(access, ThisMachine)
    if (shipped := shipped_folder(job.base)) is not None:
        return str(shipped.path) if here else f"{workdir}/bases/{shipped.content_sha256[:12]}"
    if not here and Path(job.base).is_absolute():
        raise UsageError("the base lies on this computer, and the machine has it under another name", "--where here")
    return job.base


class _Teller:
    """What is said while pictures are made: on stderr for people, as lines of JSON for others."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def saw(self, event: wire.Event) -> None:
        if isinstance(event, wire.Heartbeat | wire.Failed):
            return
        if isinstance(event, wire.SampleMade) and not self._as_json:
            click.echo(event.file.path, err=True)
            return
        if self._as_json:
            click.echo(json.dumps({"type": "event", "event": json.loads(wire.encode_event(event, 0, 0.0))}))
        elif (text := describe(event, Progress())) is not None:
            from rich.console import Console

            Console(stderr=True).print(text, highlight=False)

    def note(self, text: str) -> None:
        click.echo(json.dumps({"type": "note", "text": text}) if self._as_json else text, err=not self._as_json)

    def event(self, envelope: wire.Envelope, progress: Progress) -> None: ...

    def moved(self, state: State, why: str) -> None: ...

    def transfer(self, what: str, done_bytes: int, total_bytes: int) -> None: ...

    def arrived(self, what: str, path: str) -> None: ...


def _tell(folder: Path, made: list[wire.FileEntry], place: str, as_json: bool) -> int:
    files = [str(folder / entry.path) for entry in made]
    if as_json:
        click.echo(json.dumps({"type": "summary", "folder": str(folder), "files": files, "where": place}))
    else:
        click.echo(files[-1])
    return 0
