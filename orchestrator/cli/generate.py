"""`generate`: pictures from a trained model, where its weights are cheapest to reach."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click

from orchestrator.base_model import shipped_folder
from orchestrator.cli.options import Amount, json_option, run_argument
from orchestrator.cli.render.events import describe
from orchestrator.cli.render.summary import tell
from orchestrator.cli.rented_pictures import on_rented_machine
from orchestrator.errors import RunConflict, UsageError
from orchestrator.finished_model import FinishedModel, finished_model
from orchestrator.hosted.predicting import predict_pictures
from orchestrator.ledger import RunRecord
from orchestrator.lifecycle import State
from orchestrator.phases.context import RunContext
from orchestrator.picture_place import Circumstances, Place, place_for
from orchestrator.picture_run import PICTURES_MAX_COST_USD, RentalWish
from orchestrator.progress import Progress
from orchestrator.sampling_call import Studio
from orchestrator.spec import RunSpec, spec_from_json
from orchestrator.wiring import Wiring, connect, is_hosted, wire_up
from providers.api import Access, Market, ThisMachine
from providers.errors import CloudboothError
from remote_trainer import wire

WHERE = ("auto", *(place.value for place in Place))


@click.command(epilog='Example: cloudbooth generate my-dog "a photo of sks dog on the moon" --compare')
@run_argument
@click.argument("prompt", metavar="PROMPT")
@click.option("--count", type=click.IntRange(1, 64), default=4, show_default=True, help="How many, at seeds in a row.")
@click.option("--seed", type=click.IntRange(0), default=42, show_default=True, help="Of the first picture.")
@click.option("--size", metavar="WxH", help="Pixels, 768x512; when omitted, the size of the training.")
@click.option("--negative", default="", metavar="TEXT", help="What the pictures should not show.")
@click.option("--guidance", type=Amount(0), metavar="G", help="How closely to keep to the prompt.")
@click.option("--steps", type=click.IntRange(1, 1000), metavar="N", help="Denoising steps.")
@click.option("--sampler", type=click.Choice(get_args(wire.Sampler)), help="When omitted, the base's own.")
@click.option("--compare", is_flag=True, help="The base's pictures of the same seeds beside them.")
@click.option(
    "--where",
    type=click.Choice(WHERE),
    default="auto",
    show_default=True,
    help="On this computer, on the machine that the run keeps, on one rented for this, or at Replicate.",
)
@click.option("--provider", metavar="NAME", help="Rent there; else where the run trained, or wherever is cheapest.")
@click.option("--gpu", "gpus", multiple=True, metavar="NAME", help="Rent this GPU; again for a second choice.")
@click.option("--spot", is_flag=True, help="Rent what is cheaper and may be taken away at any moment.")
@click.option(
    "--max-price", type=Amount(0, min_open=True), metavar="USD", help="Rent nothing that costs more than this an hour."
)
@click.option(
    "--max-cost",
    type=Amount(0, min_open=True),
    metavar="USD",
    help=f"The most that a rented machine may cost: {PICTURES_MAX_COST_USD:g}.",
)
@click.option("--yes", "-y", is_flag=True, help="Rent without asking.")
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
    provider: str | None,
    gpus: tuple[str, ...],
    spot: bool,
    max_price: float | None,
    max_cost: float | None,
    yes: bool,
    target: Path | None,
    as_json: bool,
) -> int:
    """Make pictures with a run's model, and a grid of them.

    Without --where: on the machine that the run keeps, if it keeps one; at Replicate, if the run trained there; else on
    this computer, whose trainer environment is built when it is missing. A computer without a GPU is spared a run that
    trained on a rented machine: another is quoted, and rented if you agree. It makes the pictures as a run of its own,
    is given back, and what it cost is said. Each PNG carries its settings as AUTOMATIC1111 reads them.
    """
    wiring = wire_up()
    record = wiring.ledger.run(run)
    spec = spec_from_json(record.spec_json)
    model = finished_model(wiring.ledger, run)
    wish = rental_wish(where, provider, gpus, spot, max_price, max_cost)
    asked = Place.RENTED if wish is not None else None if where == "auto" else Place(where)
    place = place_for(asked, _circumstances(record, spec, model, asks=yes or (sys.stdin.isatty() and not as_json)))
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
    teller = Teller(as_json)
    match place:
        case Place.REPLICATE:
            made = predict_pictures(wiring, spec, model, job, folder, teller.note)
        case Place.MACHINE:
            made = _on_kept_machine(wiring, run, job, folder, teller)
        case Place.RENTED:
            wish = wish or RentalWish()
            try:
                rented = on_rented_machine(wiring, spec, model, job, folder, wish, yes=yes, as_json=as_json)
            except CloudboothError as error:
                if asked is None:  # nobody spoke of renting
                    error.hint = "; ".join(filter(None, (error.hint, "`--where here` makes them on this computer")))
                raise
            if rented is None:
                return 0
            if not rented.made:
                return tell(rented.summary, as_json)
            about = {"run": rented.summary.run, "cost_usd": rented.summary.cost_usd}
            return _tell(folder, rented.made, place, as_json, **about)
        case Place.HERE:
            made = _here(wiring, job, folder, teller)
    return _tell(folder, made, place, as_json)


def rental_wish(
    where: str,
    provider: str | None,
    gpus: tuple[str, ...],
    spot: bool,
    max_price: float | None,
    max_cost: float | None,
) -> RentalWish | None:
    """None when nobody speaks of renting. Raises UsageError for who names a machine and another place."""
    given = {"--provider": provider, "--gpu": gpus, "--spot": spot, "--max-price": max_price, "--max-cost": max_cost}
    flags = [flag for flag, value in given.items() if value not in (None, (), False)]
    if where not in ("auto", Place.RENTED.value) and flags:
        raise UsageError(f"{flags[0]} is for a machine to be rented, not for --where {where}", "--where rented")
    if where == "auto" and not flags:
        return None
    return RentalWish(
        provider, gpus, Market.SPOT if spot else Market.ON_DEMAND, max_price,
        PICTURES_MAX_COST_USD if max_cost is None else max_cost,
    )  # fmt: skip


def _circumstances(record: RunRecord, spec: RunSpec, model: FinishedModel, *, asks: bool) -> Circumstances:
    return Circumstances(
        run=model.name,
        kept=record.state is State.KEEPING,
        hosted=bool(model.hosted),
        trained_on_rental=spec.compute.provider not in ("local", "ssh") and not is_hosted(spec),
        able_here=shutil.which("nvidia-smi") is not None or model.base.startswith("builtin:"),
        asks=asks,
    )


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


def _here(wiring: Wiring, job: wire.PictureJob, folder: Path, teller: Teller) -> list[wire.FileEntry]:
    access = wiring.local_access()
    host = connect(access)
    try:
        job = replace(job, base=base_on(access, job, ""))
        return Studio.on(host, access).make(job, str(folder.absolute()), teller.saw)
    finally:
        host.close()


def _on_kept_machine(
    wiring: Wiring, run: str, job: wire.PictureJob, folder: Path, teller: Teller
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


class Teller:
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


def _tell(folder: Path, made: Sequence[wire.FileEntry], place: Place, as_json: bool, **about: Any) -> int:
    """`about`: the run of a machine that was rented, and what it cost."""
    files = [str(folder / entry.path) for entry in made]
    if as_json:
        data = {"type": "summary", "folder": str(folder), "files": files, "where": place.value, **about}
        click.echo(json.dumps(data))
        return 0
    if about:
        click.echo(f"{about['run']}: cost ${about['cost_usd']:.2f}, and the machine is gone", err=True)
    click.echo(files[-1])
    return 0
