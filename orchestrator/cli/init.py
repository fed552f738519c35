"""`init`: from photos and three questions to a spec."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from orchestrator.cli.options import json_option
from orchestrator.dataset.checks import Verdict, check_dataset
from orchestrator.dataset.look import look_at
from orchestrator.dataset.overlays import MOST_COMPARED
from orchestrator.dataset.scan import Scan, require_usable, scan_folder
from orchestrator.errors import UsageError
from orchestrator.estimates import quote
from orchestrator.first_spec import Estimate, Place, first_spec
from orchestrator.recipes import Kind, Recipe, known_kind, recipe_for
from orchestrator.spec import DEFAULT_BASE, RunSpec, slug
from orchestrator.spec_errors import one_of
from orchestrator.spec_file import load_spec
from orchestrator.subject_words import SubjectWords, subject_words, with_article
from orchestrator.whole_file import write_atomically
from orchestrator.workload import workload
from providers.api import Market, Offer
from providers.registry import installed_providers, nearest_provider
from remote_trainer.wire import TrainSpec

T = TypeVar("T")
REFERENCE = Offer("", "", "NVIDIA GeForce RTX 4090", 1, 24.0, Market.ON_DEMAND, 0.5)
"""What the estimate is made for without asking anybody: a GPU and a price that are usual."""
DEFAULT_BUDGET_USD = 5.0


@click.command(epilog='Example: cloudbooth init photos/ --subject "sks dog" --where runpod --budget 3 --yes')
@click.argument("photos", metavar="PHOTOS", type=click.Path(path_type=Path))
@click.option("--subject", metavar="WORDS", help='What they show, after a rare word if any: "dog", "sks woman".')
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), help="When the words do not tell it.")
@click.option("--where", metavar="PLACE", help="local, me@gpu-box, runpod, vast, any, or a plug-in's name.")
@click.option("--budget", type=click.FloatRange(0), metavar="USD", help="The most that a rented run may cost.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Default: SUBJECT.toml in this folder.")
@click.option("--yes", "-y", is_flag=True, help="Ask nothing: what is not given is decided, and told.")
@json_option
def init(
    photos: Path,
    subject: str | None,
    kind: str | None,
    where: str | None,
    budget: float | None,
    out: Path | None,
    yes: bool,
    as_json: bool,
) -> int:
    """Write a spec from photos and three questions: what is it, where to train, for how much.

    The spec holds a recipe for a person, an animal, an object or a style, with a reason at every line, and an estimate
    of time and money. Nothing is started and nothing is asked of the network.
    """
    scan = scan_folder(photos.expanduser())
    require_usable(scan)
    if out is not None:
        _require_free(out.expanduser().absolute())
    ask = not (yes or as_json) and sys.stdin.isatty()
    words = _subject(subject, kind, ask)
    target = (out or Path(f"{slug(str(words))}.toml")).expanduser().absolute()
    _require_free(target)
    chosen = _kind(kind, words, ask)
    place = _place(where, ask)
    budget_usd = _budget(budget, place, ask)
    recipe = recipe_for(chosen, str(words), len(scan.photos))
    told, doubts = _look(scan)
    estimate = _estimate(recipe, len(scan.photos)) if place.rents else None
    folder = os.path.relpath(photos.expanduser().absolute(), target.parent)
    if folder.startswith(".." + os.sep + ".."):
        folder = str(photos.expanduser().absolute())
    text = first_spec(slug(target.stem), folder, told, recipe, place, TrainSpec().resolution, budget_usd, estimate)
    try:
        write_atomically(target, text.encode())
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror or error}", "name another with --out") from None
    spec = load_spec(target)  # what is written is a spec; a bug here would otherwise be the user's
    decided = [] if ask else _decided(words, subject, kind, chosen, where, place, budget, budget_usd)
    _tell(spec, target, chosen, place, told, doubts, estimate, decided, as_json)
    return 0


def _require_free(target: Path) -> None:
    if target.suffix != ".toml":
        raise UsageError(f"a spec is a .toml file, not {target.name}", f"--out {target.with_suffix('.toml')}")
    if target.exists():
        raise UsageError(f"{target} exists already", f"--out {target.with_stem(target.stem + '-2')}")


def _subject(subject: str | None, kind: str | None, ask: bool) -> SubjectWords:
    if subject is not None or not ask:
        return subject_words(kind or Kind.OBJECT.value if subject is None else subject)
    click.echo("What do the photos show? The kind of thing, in a word or two: dog, woman, backpack, watercolor style")
    return asked_until_clear("1. It is a", kind or "dog", subject_words)


def _kind(kind: str | None, words: SubjectWords, ask: bool) -> Kind:
    known = Kind(kind) if kind else known_kind(words.thing)
    if known is not None or not ask:
        return known or Kind.OBJECT
    choice = click.Choice([each.value for each in Kind])
    return Kind(click.prompt(f'   A "{words.thing}" is a', default=Kind.OBJECT.value, type=choice))


def _place(where: str | None, ask: bool) -> Place:
    if where is not None or not ask:
        return place_of(where or _configured())
    names = ", ".join(name for name in installed_providers() if name not in ("local", "ssh"))
    click.echo(f"Where to train? local (this machine), me@gpu-box (a machine of yours over SSH), or rented: {names}")
    return asked_until_clear("2. Train on", _configured(), place_of)


def asked_until_clear(question: str, default: str, read: Callable[[str], T]) -> T:
    """Asks on the terminal, and again with the reason, until `read` no longer raises UsageError."""
    while True:
        try:
            return read(click.prompt(question, default=default))
        except UsageError as error:
            click.echo(f"{error.message}; {error.hint}\n")


def place_of(where: str) -> Place:
    """Raises UsageError for what is neither a provider nor a host."""
    if where == "ssh":
        raise UsageError("a machine over SSH wants its address", "--where me@gpu-box")
    if where in installed_providers():
        return Place(where)
    if "@" in where or where in _aliases():
        return Place("ssh", where)
    near = nearest_provider(where)
    meant = f", did you mean {near}" if near in installed_providers() else ""
    hint = f"`--where {near}`; " if meant else ""
    known = ", ".join(installed_providers())
    raise UsageError(
        f'"{where}" is no provider and no host{meant}', f"{hint}`--where me@{where}` for a host; providers: {known}"
    )


def _decided(
    words: SubjectWords,
    subject: str | None,
    kind: str | None,
    chosen: Kind,
    where: str | None,
    place: Place,
    budget: float | None,
    budget_usd: float,
) -> list[str]:
    """What nobody said and nobody was asked, with the option that says it."""
    told = []
    if words.decided or subject is None:
        told.append(f'it is called "{words}" (--subject)')
    if kind is None and known_kind(words.thing) is None:
        others = one_of([each.value for each in Kind if each is not chosen])
        told.append(f"the recipe is that for {with_article(chosen.value)} (--kind {others} takes another)")
    if where is None:
        told.append(f"trained on: {place.provider} (--where)")
    if budget is None and place.rents:
        told.append(f"at most ${budget_usd:.2f} (--budget)")
    return told


def _configured() -> str:
    """Where a key is set, else this machine."""
    for variable, provider in (("RUNPOD_API_KEY", "runpod"), ("VAST_API_KEY", "vast")):
        if os.environ.get(variable):
            return provider
    return "local"


def _aliases() -> set[str]:
    """Hosts of ~/.ssh/config, by name."""
    try:
        text = (Path.home() / ".ssh/config").read_text()
    except OSError:
        return set()
    lines = (line.split() for line in text.splitlines())
    return {name for words in lines if words and words[0].lower() == "host" for name in words[1:] if "*" not in name}


def _budget(budget: float | None, place: Place, ask: bool) -> float:
    if budget is None and ask and place.rents:
        click.echo("How much may it cost at most? All machines together, whatever happens, in dollars")
        budget = click.prompt("3. At most", default=DEFAULT_BUDGET_USD, type=click.FloatRange(0))
    return DEFAULT_BUDGET_USD if budget is None else budget


def _look(scan: Scan) -> tuple[str, int]:
    """A line about the photos, and how many of them are not good."""
    looks = {photo.path: look_at(photo, keep=len(scan.photos) <= MOST_COMPARED) for photo in scan.photos}
    checked = check_dataset([scan], looks, TrainSpec(), is_person=False)
    counts = ", ".join(f"{checked.count(verdict)} {verdict.value}" for verdict in Verdict if checked.count(verdict))
    return f"{len(scan.photos)} photos: {counts}", len(scan.photos) - checked.count(Verdict.GOOD)


def _estimate(recipe: Recipe, photos: int) -> Estimate:
    train = TrainSpec(steps=recipe.steps, method="lora", lora_rank=recipe.lora_rank, validate_every=200)
    generate = int(recipe.regularization.partition(":")[2] or 0)
    work = workload(
        DEFAULT_BASE, train, ("lora", "kohya-lora"), photos=photos, class_images=generate, generate=generate
    )
    priced = quote(work, REFERENCE)
    return Estimate("RTX 4090", REFERENCE.price_per_hour_usd, priced.duration_s, priced.cost_usd)


def _tell(
    spec: RunSpec,
    file: Path,
    kind: Kind,
    place: Place,
    told: str,
    doubts: int,
    estimate: Estimate | None,
    decided: list[str],
    as_json: bool,
) -> None:
    for line in decided:
        click.echo(f"decided: {line}", err=True)
    if as_json:
        cost = None if estimate is None else vars(estimate.cost_usd)
        facts = {"spec": str(file), "name": spec.name, "kind": kind.value, "provider": place.provider, "photos": told}
        click.echo(json.dumps({"type": "summary", **facts, "steps": spec.train.steps, "cost_usd": cost}))
        return
    click.echo(f"{file}: a recipe for {with_article(kind.value)}, {told}")
    if estimate is not None:
        click.echo(f"expected: {estimate.words}; at most ${spec.limits.max_cost_usd:.2f}")
    if doubts:
        click.echo(f"{doubts} of the photos are doubtful or bad: `cloudbooth dataset check {spec.data.instance}`")
    shown = file.name if file.parent == Path.cwd() else file
    click.echo(f"\nnext: cloudbooth plan {shown}\nthen: cloudbooth launch {shown}")
