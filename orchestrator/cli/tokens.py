"""`tokens`: rare tokens of a base, to name a subject with."""

from __future__ import annotations

import dataclasses
import json

import click

from orchestrator.cli.options import json_option
from orchestrator.errors import UsageError
from orchestrator.wiring import wire_up


@click.command(epilog="Example: cloudbooth tokens stable-diffusion-v1-5/stable-diffusion-v1-5 --subject dog")
@click.argument("base")
@click.option("--subject", default="dog", show_default=True, metavar="KIND", help="What the token is to name.")
@click.option("--prompt", metavar="TEXT", help="The prompt, with {} for the token; when omitted: a photo of {} KIND.")
@click.option("--letters", default="3-4", show_default=True, metavar="N-M", help="Fewest and most letters of a token.")
@click.option("--count", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many to show.")
@click.option("--embeddings", is_flag=True, help="Fetch the base's token embeddings from the hub: 75 to 150 MB, once.")
@json_option
def tokens(
    base: str, subject: str, prompt: str | None, letters: str, count: int, embeddings: bool, as_json: bool
) -> int:
    """List tokens that a base hardly knows, the best names for a subject first.

    BASE is a diffusers folder, the folder of a tokenizer, or a hub id, of which only the tokenizer is fetched. A token
    is one piece in the prompt, no word in the lists that are at hand, and is ranked by how late its tokenizer learned
    it and, where embeddings are at hand, by how short its embedding is and how far from common words. Needs no PyTorch.
    """
    from orchestrator.tokens.ranking import rare_tokens
    from orchestrator.tokens.source import open_source
    from orchestrator.tokens.words import word_test

    text = prompt or f"a photo of {{}} {subject}"
    if text.count("{}") != 1:
        raise UsageError("--prompt needs {} once, where the token stands", '--prompt "a photo of {} dog"')
    bounds = _bounds(letters)
    cache = wire_up().home.root / "tokenizers"
    source = open_source(base, cache, wants_embeddings=embeddings, tell=lambda line: click.echo(line, err=True))
    is_word, known = word_test()
    found = rare_tokens(source.tokenizer, is_word, text, letters=bounds, table=source.table, count=count)
    if as_json:
        for token in found:
            click.echo(json.dumps({"type": "token", **dataclasses.asdict(token)}))
        summary = {"type": "summary", "base": base, "prompt": text, "tokens": len(found)}
        click.echo(json.dumps({**summary, "embeddings": source.table is not None, "words": known}))
        return 0
    from rich.console import Console

    from orchestrator.cli.render.tokens import render_tokens

    render_tokens(found, text, known, Console())
    return 0


def _bounds(letters: str) -> tuple[int, int]:
    low, _, high = letters.partition("-")
    if not (low.isdigit() and (high or low).isdigit()) or not 2 <= int(low) <= int(high or low) <= 5:
        raise UsageError(f'--letters takes two numbers from 2 to 5, is "{letters}"', "--letters 3-4")
    return int(low), int(high or low)
