"""What `dataset check` and `dataset prepare` found and made, for people."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from orchestrator.dataset.checks import DatasetCheck, PhotoCheck, Verdict
from orchestrator.dataset.framing import FramingTable
from orchestrator.dataset.prepared_folder import PreparedPhoto
from orchestrator.dataset.scan import Severity

_STYLES = {Verdict.GOOD: "green", Verdict.DOUBTFUL: "yellow", Verdict.BAD: "bold red"}


def render_check(check: DatasetCheck, folder: Path, sheet: Path | None, console: Console) -> None:
    """Every photo with its verdict, then sizes, framing and what else there is. Legible without color."""
    counts = ", ".join(f"{check.count(verdict)} {verdict.value}" for verdict in Verdict if check.count(verdict))
    console.print(f"[bold]Photos in {escape(str(folder))}[/]: {counts}", highlight=False)
    console.print()
    for photo in check.photos:
        _photo(photo, console)
    _buckets(check.photos, console)
    if check.framing is not None:
        _framing(check.framing, console)
    for finding in check.findings:
        word = "[dim]note:[/]" if finding.severity is Severity.NOTE else f"[yellow]{finding.severity.value}:[/]"
        hint = f" [dim]({escape(finding.hint)})[/]" if finding.hint else ""
        console.print(f"{word} {escape(finding.path.name)} {escape(finding.message)}{hint}", highlight=False)
    if sheet is not None:
        console.print(f"\ncontact sheet: {escape(str(sheet))}", highlight=False, soft_wrap=True)
    elif check.count(Verdict.GOOD) < len(check.photos):
        console.print("\nsee them all: add `--sheet photos.html`", highlight=False)


def render_prepared(
    made: Sequence[PreparedPhoto], left_out: Sequence[PhotoCheck], folder: Path, console: Console
) -> None:
    """What lies in the new folder, what was left out and why, and how to go on."""
    for photo in made:
        caption = f' [dim]"{escape(photo.caption)}"[/]' if photo.caption else ""
        console.print(f"{escape(photo.file.name)}  {photo.width}×{photo.height}{caption}", highlight=False)
    for check in left_out:
        why = "; ".join(reason.message for reason in check.reasons if reason.verdict is Verdict.BAD)
        console.print(f"[yellow]left out:[/] {escape(check.path.name)} {escape(why)}", highlight=False)
    console.print(f"\n{len(made)} photos are in {escape(str(folder))}", highlight=False, soft_wrap=True)
    console.print(f"next: cloudbooth init {shlex.quote(str(folder))}", highlight=False, soft_wrap=True, markup=False)


def _photo(photo: PhotoCheck, console: Console) -> None:
    placed = photo.placement
    size = f"  [dim]{placed.photo.width}×{placed.photo.height} → {placed.bucket}[/]" if placed else ""
    size += f"[dim], {photo.framing.value}[/]" if photo.framing else ""
    word = f"[{_STYLES[photo.verdict]}]{photo.verdict.value:<8}[/]"
    console.print(f"{word}  {escape(photo.path.name)}{size}", highlight=False)
    for reason in photo.reasons:
        text = f"{escape(reason.message)}" + (f" [dim]({escape(reason.hint)})[/]" if reason.hint else "")
        console.print(Padding(text, (0, 0, 0, 10)), highlight=False)


def _buckets(photos: Sequence[PhotoCheck], console: Console) -> None:
    sizes = Counter(str(photo.placement.bucket) for photo in photos if photo.placement)
    told = ", ".join(f"{count} at {bucket}" for bucket, count in sizes.most_common())
    if told:
        console.print(f"\ntrained: {told}", highlight=False)


def _framing(table: FramingTable, console: Console) -> None:
    console.print("\n[bold]Framing[/]", highlight=False)
    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for title in ("", "there", "wanted", "missing"):
        shown.add_column(title, justify="left" if not title else "right", no_wrap=True)
    for row in table.rows:
        wanted = f"{row.at_least} to {row.at_most}"
        shown.add_row(row.framing.value, str(row.found), wanted, str(row.missing) if row.missing else "-")
    console.print(Padding(shown, (0, 0, 0, 2)), highlight=False)
    if table.unnamed:
        console.print(
            f"  {table.unnamed} more that nothing tells of: call them close-1.jpg, upper-1.jpg, full-1.jpg, or put "
            "them into folders close/, upper/, full/",
            highlight=False,
        )
