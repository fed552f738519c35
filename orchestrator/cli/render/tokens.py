"""Rare tokens for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.tokens.ranking import RareToken


def render_tokens(found: Sequence[RareToken], prompt: str, known: str, console: Console) -> None:
    """A table, then how to use it. Legible without color and at 80 columns."""
    if not found:
        console.print(f'no token of the base is rare enough: each is a word, or more than one piece in "{prompt}"')
        console.print('other --letters may find one; a made-up word of several pieces, such as "sks", will do, too')
        return
    measured = any(token.norm is not None for token in found)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("token", no_wrap=True)
    for name in ("score", "id", "merge", *(("norm", "distance") if measured else ())):
        table.add_column(name, justify="right", no_wrap=True)
    if measured:
        table.add_column("nearest word", no_wrap=True)
    for token in found:
        row = [escape(token.word), f"{token.score:.2f}", str(token.id), str(token.merge_rank)]
        if measured:
            row += ["" if value is None else f"{value:.3f}" for value in (token.norm, token.distance)]
            row.append(escape(token.nearest or ""))
        table.add_row(*row)
    console.print(table, highlight=False)
    console.print(f"\n[dim]checked against {escape(known)}; look a token up before you use it[/]", highlight=False)
    example = prompt.replace("{}", found[0].word)
    console.print(f'[dim]instance_prompt = "{escape(example)}"[/]', highlight=False)
