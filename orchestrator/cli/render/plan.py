"""The plan for people: what, from which photos, at which sizes, where, for how much, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import assert_never

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from orchestrator.base_model import BaseSource, BuiltinBase, HubModel, LocalFolder
from orchestrator.dataset.placement import Placement
from orchestrator.dataset.scan import Finding, Severity
from orchestrator.estimates import Quote
from orchestrator.plan import Plan
from orchestrator.plan_data import ClassImages
from orchestrator.ranges import duration, duration_range, usd, usd_range
from orchestrator.rental import Rental
from orchestrator.single_file_base import LinkedFile, LocalFile
from orchestrator.storage.planned import StoragePlan
from orchestrator.volumes import words
from providers.api import Offer
from remote_trainer.wire import Decision, Warned

MAX_PHOTO_ROWS = 20
_ENVIRONMENT_SIZE = "2 to 8 GB, once, for some minutes"
"""Without and with CUDA."""


def render_plan(plan: Plan, console: Console) -> None:
    """Prints the whole plan. Legible without color and at 80 columns; asks nothing."""
    console.print(f"[bold]Plan for {escape(plan.name)}[/]", highlight=False)
    section(console, "Subject", _subject(plan))
    section(console, "Photos", _photos(plan))
    section(console, "Sizes", _sizes(plan))
    if len(plan.sets) > 1 and any(each.id not in ("instance", "class") for each in plan.sets):
        section(console, "Sets", _sets(plan))
    if plan.translation:
        section(console, "Translation", _translation(plan))
    section(console, "Training", _training(plan))
    section(console, "Machine", _machine(plan))
    if plan.rental is not None:
        section(console, "Offers", _offers(plan.rental))
        section(console, "What happens when", _afterwards(plan.rental))
    if plan.storage is not None:
        section(console, "Storage", _storage(plan.storage))
    if plan.decisions:
        section(console, "Decided for you", render_decisions(plan.decisions))
    render_warnings(plan.findings, plan.warnings, console)


def section(console: Console, title: str, body: Table) -> None:
    console.print()
    console.print(f"[bold]{title}[/]", highlight=False)
    console.print(Padding(body, (0, 0, 0, 2)), highlight=False)


def facts_table() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _subject(plan: Plan) -> Table:
    table = facts_table()
    prompts = dict.fromkeys([plan.instance_prompt, *(each.prompt for each in plan.sets if each.role == "instance")])
    for number, prompt in enumerate(prompts):
        table.add_row("" if number else "prompt", escape(f'"{prompt}"'))
    if plan.class_images is not None:
        source = _class_source(plan.class_images)
        table.add_row("class", escape(f'"{plan.class_prompt}", {source}'))
        table.add_row("prior weight", f"{plan.train.prior_loss_weight:g}")
    table.add_row("base", escape(_base(plan.base, travels=plan.offer.provider != "local")))
    table.add_row("model", escape(f"{plan.output_folder / plan.name}: {', '.join(plan.formats)}"))
    return table


def _class_source(images: ClassImages) -> str:
    parts = []
    if images.generate:
        parts.append(f"{images.generate} made by the base on the machine")
    for wanted in images.fetches:
        at = f" at {wanted.commit[:12]}" if wanted.commit else ""
        parts.append(
            f"up to {wanted.count} fetched by the machine from {wanted.url}, folder {wanted.folder or '.'}{at}"
        )
    if images.placements:
        parts.append(f"{len(images.placements)} from a folder")
    return ", ".join(parts)


def _base(base: BaseSource, *, travels: bool) -> str:
    to_upload = " to upload" if travels else ""
    match base:
        case BuiltinBase(name):
            return f"builtin:{name}, comes with the trainer"
        case HubModel(repo, revision, pinned):
            at = f" at {revision[:12]}" if revision else ""
            return f"{repo}{at}" + ("" if pinned else ", not pinned")
        case LinkedFile(url):
            size = "" if base.bytes is None else f", {_size(base.bytes)}"
            return f"{url}{size}, fetched by the machine"
        case LocalFolder(builtin=name) if name:
            return f"builtin:{name}, comes with this program, {_size(base.total_bytes)}{to_upload}"
        case LocalFolder(path) | LocalFile(path):
            return f"{path}, {_size(base.total_bytes)}{to_upload}"
        case _:
            assert_never(base)


def _photos(plan: Plan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("photo", overflow="fold")
    table.add_column("pixels", justify="right", no_wrap=True)
    table.add_column("trained at", justify="right", no_wrap=True)
    table.add_column("scaled", justify="right", no_wrap=True)
    table.add_column("cropped", justify="right", no_wrap=True)
    for placed in plan.instance[:MAX_PHOTO_ROWS]:
        table.add_row(*_photo_row(placed))
    hidden = len(plan.instance) - MAX_PHOTO_ROWS
    if hidden > 0:
        table.add_row(f"and {hidden} more", "", "", "", "")
    return table


def _photo_row(placed: Placement) -> tuple[str, ...]:
    cropped = f"{placed.cropped_share:.0%}" if placed.cropped_share >= 0.005 else "-"
    photo = placed.photo
    scaled = f"{placed.enlargement:.2f}×"
    return escape(photo.path.name), f"{photo.width}×{photo.height}", str(placed.bucket), scaled, cropped


def _sizes(plan: Plan) -> Table:
    table = facts_table()
    for count in plan.buckets:
        table.add_row(str(count.bucket), f"{count.photos} photo{'s' if count.photos > 1 else ''}")
    return table


def _sets(plan: Plan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("set", overflow="fold")
    for name in ("role", "pictures", "sizes", "passes", "each seen", "share"):
        table.add_column(name, justify="left" if name in ("role", "sizes") else "right", overflow="fold")
    for each, visits in zip(plan.sets, plan.visits, strict=True):
        sizes = Counter(str(placed.bucket) for placed in each.placements)
        if elsewhere := each.count - len(each.placements):
            sizes[f"{plan.train.resolution}×{plan.train.resolution}"] += elsewhere
        passes = "any" if each.repeats is None else str(each.repeats + 1)
        shown = ", ".join(size for size, _ in sizes.most_common(3)) + (", …" if len(sizes) > 3 else "")
        seen, share = f"{visits.each:.4g} times", f"{visits.share:.0%}"
        table.add_row(escape(each.id), each.role, str(each.count), shown, passes, seen, share)
    return table


def _translation(plan: Plan) -> Table:
    """Row by row: where, what stood there, what it became."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", overflow="fold", ratio=2)
    table.add_column(overflow="fold", ratio=3)
    table.add_column(overflow="fold", ratio=4)
    where = None
    for row in plan.translation:
        given = f"{row.key} {row.value}" if row.value not in ("", '""') else row.key
        became = row.became or "ignored"
        why = f" ({row.why})" if row.why else ""
        table.add_row(escape("" if row.where == where else row.where), escape(given), escape(became + why))
        where = row.where
    return table


def _training(plan: Plan) -> Table:
    train = plan.train
    table = facts_table()
    rank = f", rank {train.lora_rank}" if train.method != "full" else ""
    table.add_row("method", f"{train.method}{rank}, learning rate {train.learning_rate:g} ({train.lr_schedule})")
    batch = f"batch {train.batch_size}"
    if train.gradient_accumulation > 1:
        batch += f" × {train.gradient_accumulation} accumulated"
    if plan.gpu_count > 1:
        batch += f" on each of {plan.gpu_count} GPUs"
    photos = len(plan.instance)
    times = f"each of {photos} photos {plan.epochs:.4g} times" if photos > 1 else f"one photo {plan.epochs:.4g} times"
    per_epoch = plan.steps_per_epoch if len(plan.sets) > 1 else None
    table.add_row("steps", f"{train.steps}, {batch}: {times}" + ("" if per_epoch else " (epochs)"))
    if per_epoch:
        table.add_row(
            "epochs",
            f"{train.steps / per_epoch:.4g}, of about {per_epoch:.4g} steps",
        )
    table.add_row("checkpoints", f"every {train.checkpoint_every} steps, the newest {train.keep_checkpoints} kept")
    each = f"every {train.validate_every} steps, " if 0 < train.validate_every < train.steps else ""
    table.add_row("pictures", f"{each}before and after, {len(train.validation_prompts)} at a time")
    table.add_row("seed", str(train.seed))
    return table


def _machine(plan: Plan) -> Table:
    offer = plan.offer
    table = facts_table()
    gpu = f", {offer.gpu}" if offer.gpu else ""
    memory = f" with {offer.vram_gb:g} GB" if offer.gpu and offer.vram_gb else ""
    where = f", {offer.region}" if offer.region else ""
    if plan.machine is None:
        table.add_row("provider", escape(f"{offer.provider}{gpu}{memory}{where}"))
    else:
        table.add_row("provider", escape(offer.provider))
        table.add_row("machine", escape(f"{plan.machine.label}, in its folder {plan.machine.workdir}"))
        table.add_row("GPU", "NVIDIA: nvidia-smi is there" if plan.machine.has_gpu else "none: no nvidia-smi is there")
        if plan.machine.free_gb is not None:
            table.add_row("disk", f"{plan.machine.free_gb:.3g} GB free below that folder")
        if not plan.machine.has_environment:
            table.add_row("environment", f"not there yet: PyTorch and the rest, {_ENVIRONMENT_SIZE}, come first")
    if offer.price_per_hour_usd == 0:
        table.add_row("price", "$0.00: nothing is rented")
    else:
        table.add_row("price", f"${offer.price_per_hour_usd:.2f}/h ({offer.market.value})")
    rental = plan.rental
    if rental is not None:
        source = "measured" if rental.quote.is_measured else "estimate"
        table.add_row("time", f"{duration_range(rental.quote.duration_s)}, {source}")
        table.add_row("cost", f"{usd_range(rental.quote.cost_usd)}, {source}")
        kept_for = "a stopped disk" if rental.volume is None else "one more machine to fetch the model"
        rescue = f", {usd(rental.rescue_usd)} of them for {kept_for}" if rental.rescue_usd else ""
        table.add_row("ceiling", f"{usd(rental.ceiling_usd)}, all machines together{rescue}")
        if rental.volume is None:
            table.add_row("disk", f"{rental.disk_gb:g} GB")
        else:
            table.add_row("volume", escape(f"{rental.volume.id}: {words(rental.volume)}, with or without a run"))
    elif plan.time_s is not None:
        table.add_row("time", f"{duration_range(plan.time_s)} for the steps, as measured in an earlier run")
    else:
        table.add_row("time", "not known before the first steps are measured")
    if rental is None:
        table.add_row("cost", f"${plan.cost_usd:.2f}")
    if plan.deadline_s is not None:
        table.add_row("ends at latest", f"after {duration(plan.deadline_s)}")
    if rental is not None:
        table.add_row("reserve", f"{duration(rental.reserve_s)} of the paid time are for the way home")
    return table


def _offers(rental: Rental) -> Table:
    """Markets side by side: the chosen one first."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("", style="dim", no_wrap=True)
    quotes = rental.quotes
    for number, priced in enumerate(quotes):
        chosen = ", chosen" if number == 0 and len(quotes) > 1 else ""
        table.add_column(f"{priced.offer.market.value}{chosen}", overflow="fold")
    table.add_row("GPU", *(escape(_offer_name(priced.offer)) for priced in quotes))
    table.add_row("price", *(f"${priced.offer.price_per_hour_usd:.2f}/h" for priced in quotes))
    table.add_row("a step", *(_step_time(priced) for priced in quotes))
    table.add_row("time", *(duration_range(priced.duration_s) for priced in quotes))
    table.add_row("cost", *(usd_range(priced.cost_usd) for priced in quotes))
    table.add_row("interruptions", *(_interruptions(priced) for priced in quotes))
    table.add_row("checkpoints", *(f"every {priced.checkpoint_every} steps" for priced in quotes))
    return table


def _offer_name(offer: Offer) -> str:
    return f"{offer.provider}: {offer.gpu}"


def _step_time(priced: Quote) -> str:
    step_s = priced.seconds_per_step
    return f"{step_s.expected:.2f} s ({step_s.low:.2f} to {step_s.high:.2f})"


def _interruptions(priced: Quote) -> str:
    rate = priced.interruption_rate
    if rate.per_hour <= 0:
        return "none expected"
    return f"{priced.interruptions:.2f} expected: one in {rate.mean_hours:.0f} h, {rate.source}"


def _afterwards(rental: Rental) -> Table:
    table = facts_table()
    for when, what in rental.afterwards:
        table.add_row(when, escape(what))
    return table


def _storage(storage: StoragePlan) -> Table:
    table = facts_table()
    table.add_row("store", escape(storage.url))
    if storage.lent_for_s is None:
        table.add_row("filled", "by this laptop, with what has come home")
        return table
    table.add_row("filled", "by the machine, from the first checkpoint on, also while this laptop is away")
    how = "the store's keys" if storage.hands_over_keys else "lent URLs"
    table.add_row("with", f"{how}, good for {duration(storage.lent_for_s)}: {storage.lent_for_why}")
    return table


def render_decisions(decisions: Sequence[Decision]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(overflow="fold", ratio=1)
    table.add_column(style="dim", overflow="fold", ratio=1)
    for decision in decisions:
        table.add_row(escape(decision.what), escape(decision.why))
    return table


def render_warnings(findings: Sequence[Finding], warnings: Sequence[Warned], console: Console) -> None:
    lines = _findings(findings)
    lines += [(True, warned.message, warned.hint) for warned in warnings]
    if lines:
        console.print()
    for is_warning, message, hint in sorted(lines, key=lambda line: not line[0]):
        word = "[yellow]warning:[/]" if is_warning else "[dim]note:[/]"
        console.print(f"{word} {escape(message)}", highlight=False)
        if hint:
            console.print(Padding(f"[dim]hint: {escape(hint)}[/]", (0, 0, 0, 2)), highlight=False)


def _findings(findings: Sequence[Finding]) -> list[tuple[bool, str, str]]:
    """(is a warning, message, hint); photos with the same thing to say share a line."""
    files: dict[tuple[bool, str, str], list[str]] = {}
    for finding in findings:
        key = finding.severity is Severity.WARNING, finding.message, finding.hint
        files.setdefault(key, []).append(finding.path.name)
    lines = []
    for (is_warning, message, hint), names in files.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        text = f"{shown} {message}" if len(names) == 1 else f"{shown}: each {message}"
        lines.append((is_warning, text, hint))
    return lines


def _size(count: int) -> str:
    size, units = float(count), ["bytes", "kB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.3g} {units[0]}"
