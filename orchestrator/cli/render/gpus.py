"""What is for rent, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.estimates import Quote
from orchestrator.market import Listing, Refusal
from orchestrator.ranges import duration, usd
from providers.api import Market, Offer


def render_listings(
    listings: Sequence[Listing], refusals: Sequence[Refusal], markets: Sequence[Market], console: Console
) -> None:
    """A table, then what is missing in it and why. Legible without color and at 80 columns."""
    if listings:
        console.print(_table(listings, markets), highlight=False)
    for refusal in sorted(refusals, key=lambda refusal: not refusal.configured):
        word = "[yellow]failed:[/]" if refusal.configured else "[dim]not configured:[/]"
        hint = f" [dim]({escape(refusal.hint)})[/]" if refusal.hint else ""
        console.print(f"{word} {escape(refusal.provider)}: {escape(refusal.message)}{hint}", highlight=False)
    if not listings and not refusals:
        console.print("nothing that fits is for rent right now")


def _table(listings: Sequence[Listing], markets: Sequence[Market]) -> Table:
    priced = any(listing.on_demand_quote or listing.spot_quote for listing in listings)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("provider", no_wrap=True)
    table.add_column("GPU", overflow="fold")
    table.add_column("VRAM", justify="right", no_wrap=True)
    for market in markets:
        table.add_column(market.value, justify="right", no_wrap=True)
    if priced:
        table.add_column("model", justify="right", no_wrap=True)
        table.add_column("takes", justify="right", no_wrap=True)
    table.add_column("stock", overflow="fold")
    table.add_column("region", overflow="fold")
    table.add_column("up", justify="right", no_wrap=True)
    for listing in listings:
        offers = {Market.ON_DEMAND: listing.on_demand, Market.SPOT: listing.spot}
        model = _cheapest_model(listing)
        table.add_row(
            escape(listing.provider),
            escape(listing.gpu),
            f"{listing.vram_gb:.0f} GB" if listing.vram_gb else "",
            *(_price(offers[market]) for market in markets),
            *((f"~{usd(model.cost_usd.expected)}", duration(model.duration_s.expected)) if model else ()),
            escape(_stock(listing)),
            escape(listing.best.region),
            f"{listing.best.reliability:.1%}" if listing.best.reliability is not None else "",
        )
    return table


def _stock(listing: Listing) -> str:
    """The provider's own word where it has one for all of them, else how many offers there are."""
    if listing.offers == 1 and listing.best.stock:
        return listing.best.stock
    return f"{listing.offers} offers" if listing.offers > 1 else "1 offer"


def _cheapest_model(listing: Listing) -> Quote | None:
    quotes = [priced for priced in (listing.on_demand_quote, listing.spot_quote) if priced is not None]
    return min(quotes, key=lambda priced: priced.cost_usd.expected, default=None)


def _price(offer: Offer | None) -> str:
    return f"${offer.price_per_hour_usd:.2f}/h" if offer is not None else "-"
