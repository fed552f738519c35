"""`report`: one run as a page that stands alone."""

from __future__ import annotations

import dataclasses
import json
import webbrowser
from pathlib import Path

import click

from orchestrator.cli.options import json_option, run_argument
from orchestrator.errors import UsageError
from orchestrator.report.collect import collect
from orchestrator.report.contents import Report
from orchestrator.report.pictures import PictureBook
from orchestrator.report.render import render
from orchestrator.whole_file import write_atomically
from orchestrator.wiring import Wiring, wire_up

FOLLOW_EVERY_S = 2.0
RELOAD_S = 5.0
"""Of the page: a person reads it meanwhile."""


@click.command(epilog="Example: cloudbooth report my-dog --open")
@run_argument
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Default: RUN-report.html in this folder.")
@click.option("--follow", "-f", is_flag=True, help="Write it anew until the run has ended; the page reloads itself.")
@click.option("--open", "open_page", is_flag=True, help="Show it in the browser.")
@json_option
def report(run: str, out: Path | None, follow: bool, open_page: bool, as_json: bool) -> int:
    """Write one HTML file about a run: pictures, curves, time, money, settings.

    The file stands alone: it loads nothing from the network. With --json the same facts are printed and no file is
    written.
    """
    wiring = wire_up()
    if as_json:
        if out is not None or follow or open_page:
            raise UsageError("--json prints the facts and writes no page", "leave out --out, --follow and --open")
        click.echo(json.dumps({"type": "summary", **dataclasses.asdict(_collect(wiring, run))}))
        return 0
    file = (out or Path(f"{run}-report.html")).expanduser().absolute()
    book = PictureBook()
    try:
        collected = _write(wiring, run, file, book, follow)
        click.echo(str(file))
        if open_page and not webbrowser.open(file.as_uri()):
            click.echo("note: no browser could be started", err=True)
        while follow and not collected.has_ended:
            wiring.clock.sleep(FOLLOW_EVERY_S)
            collected = _write(wiring, run, file, book, follow)
    except KeyboardInterrupt:
        _write(wiring, run, file, book, follow=False)  # a page that nobody writes anew stops loading itself anew
        raise
    return 0


def _collect(wiring: Wiring, run: str) -> Report:
    return collect(wiring.ledger, wiring.home.run(run), run, wiring.clock.now())


def _write(wiring: Wiring, run: str, file: Path, book: PictureBook, follow: bool) -> Report:
    collected = _collect(wiring, run)
    reload_s = RELOAD_S if follow and not collected.has_ended else None
    page = render(collected, book.inline(collected), reload_s)
    try:
        write_atomically(file, page.encode("utf-8", "replace"))  # a file name may hold what no text does
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"the report {file} cannot be written: {reason}", "name another file with `--out`") from None
    return collected
