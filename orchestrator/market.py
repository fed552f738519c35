"""What is for rent now, all configured providers side by side. Asking is here; ranking is pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.estimates import Measured, Quote, quote
from orchestrator.workload import Workload
from providers.api import GpuRequest, MachineProvider, Market, Offer
from providers.errors import CloudboothError


@dataclass(frozen=True)
class Refusal:
    """A provider that does not answer, or cannot be asked."""

    provider: str
    message: str
    hint: str
    configured: bool
    """False: it lacks credentials, which is no failure."""


@dataclass(frozen=True)
class Listing:
    """One kind of GPU of one provider: the best offer of each market."""

    provider: str
    gpu: str
    vram_gb: float
    on_demand: Offer | None
    spot: Offer | None
    offers: int
    """How many there are in the market that has more of them."""
    on_demand_quote: Quote | None = None
    """For a given run; None without one."""
    spot_quote: Quote | None = None

    @property
    def best(self) -> Offer:
        """The cheaper one."""
        found = [offer for offer in (self.on_demand, self.spot) if offer is not None]
        return min(found, key=lambda offer: offer.price_per_hour_usd)


def ask_all(
    providers: Mapping[str, MachineProvider], want: GpuRequest, markets: Sequence[Market]
) -> tuple[list[Offer], list[Refusal]]:
    """One question a provider and market; whoever fails is among the refusals, and the others are not affected."""
    offers: list[Offer] = []
    refusals: list[Refusal] = []
    for name, provider in providers.items():
        try:
            for market in markets:
                if market in provider.markets:
                    offers += provider.offers(
                        GpuRequest(
                            want.gpus,
                            want.min_vram_gb,
                            want.disk_gb,
                            market,
                            secure_only=want.secure_only,
                            gpu_count=want.gpu_count,
                        )
                    )
        except CloudboothError as error:
            refusals.append(Refusal(name, error.message, error.hint, configured=True))
    return offers, refusals


def side_by_side(
    offers: Sequence[Offer], work: Workload | None = None, measured: Measured | None = None
) -> list[Listing]:
    """One listing for each provider and GPU, by the expected cost of the model with `work`, by price without."""
    kinds: dict[tuple[str, str, float], list[Offer]] = {}
    for offer in offers:
        kinds.setdefault((offer.provider, offer.gpu, round(offer.vram_gb)), []).append(offer)
    listings = []
    for (provider, gpu, _), found in kinds.items():
        on_demand, spot = (_cheapest(found, market) for market in (Market.ON_DEMAND, Market.SPOT))
        listings.append(
            Listing(
                provider=provider,
                gpu=gpu,
                vram_gb=found[0].vram_gb,
                on_demand=on_demand,
                spot=spot,
                offers=max(sum(offer.market is market for offer in found) for market in Market),
                on_demand_quote=quote(work, on_demand, measured) if work and on_demand else None,
                spot_quote=quote(work, spot, measured) if work and spot else None,
            )
        )

    def rank(listing: Listing) -> tuple[float, float]:
        quotes = [priced for priced in (listing.on_demand_quote, listing.spot_quote) if priced is not None]
        cost = min((priced.cost_usd.expected for priced in quotes), default=0.0)
        return cost, listing.best.price_per_hour_usd

    return sorted(listings, key=rank)


def _cheapest(offers: Sequence[Offer], market: Market) -> Offer | None:
    of_market = [offer for offer in offers if offer.market is market]
    return min(of_market, key=lambda offer: offer.price_per_hour_usd, default=None)
